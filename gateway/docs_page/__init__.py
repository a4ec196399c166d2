"""`/docs`: the API's reference as a page of Swagger UI, whose files come from this package and no other host.

`assets/` holds files of the npm package swagger-ui-dist, unchanged, and our own index.html and start.js. All addresses
are relative, so that the page works behind a proxy that puts a path in front.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse

ASSETS: Final = Path(__file__).with_name("assets")
VERSION: Final = "5.35.0"  # of swagger-ui-dist, Apache-2.0
# SHA-256 of its files as they are in the package.
SHA256: Final = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "favicon-32x32.png": "3ed612f41e050ca5e7000cad6f1cbe7e7da39f65fca99c02e99e6591056e5837",
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
}
MEDIA_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
SAFE: Final = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
# Swagger UI puts styles into the page itself; scripts and requests are this gateway's alone.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> FileResponse:
    """The page."""
    headers = SAFE | {"content-security-policy": POLICY, "cache-control": "no-cache"}
    return FileResponse(ASSETS / "index.html", media_type="text/html", headers=headers)


def _serve(name: str, media_type: str) -> None:
    async def asset() -> FileResponse:
        headers = SAFE | {"cache-control": "max-age=3600"}
        return FileResponse(ASSETS / name, media_type=media_type, headers=headers)

    router.add_api_route(f"/docs/{name}", asset, methods=["GET"])


for _name, _media_type in MEDIA_TYPES.items():
    _serve(_name, _media_type)
