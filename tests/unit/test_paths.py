"""Other spellings of paths, and which route each means."""

import pytest

from gateway.paths import canonical, nearest, target


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/v1/embeddings", "/v1/embeddings"),
        ("//v1//embeddings///", "/v1/embeddings"),
        ("/embeddings", "/v1/embeddings"),
        ("/embeddings/", "/v1/embeddings"),
        ("/openai/v1/embeddings", "/v1/embeddings"),
        ("/openai/v1/models/a/b", "/v1/models/a/b"),
        ("/models", "/v1/models"),
        ("/models/a", "/v1/models/a"),
        ("/modelsx", "/modelsx"),
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/health/", "/health"),
        ("/v1/v1/models", "/v1/v1/models"),
        ("/V1/embeddings", "/V1/embeddings"),
        ("/embed/../admin", "/embed/../admin"),
    ],
)
def test_spellings(path: str, plain: str) -> None:
    """Slashes too many and the prefixes of other servers; dots and capitals are left as they are."""
    assert canonical(path) == plain


@pytest.mark.parametrize(
    "path", ["//admin/stats", "/admin//stats", "/admin/stats/", "///admin", "//metrics", "/metrics/", "//docs"]
)
def test_operators_paths_have_one_spelling(path: str) -> None:
    """A proxy that keeps /admin from the outside by its path is not got around."""
    assert canonical(path) == path


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/openai/deployments/m/embeddings", ("/openai/deployments/{model}/embeddings", "m")),
        ("/openai/deployments/org/m/embeddings/", ("/openai/deployments/{model}/embeddings", "org/m")),
        ("/openai/deployments//embeddings", None),
        ("/openai/deployments/embeddings", None),
        ("/openai/deployments/m/completions", None),
        ("/pipeline/feature-extraction/org/m", ("/pipeline/feature-extraction/{model}", "org/m")),
        ("/models/org/m/pipeline/feature-extraction", ("/models/{model}/pipeline/feature-extraction", "org/m")),
        ("/models/org/m", ("/models/{model}", "org/m")),
        ("/models/", None),
        ("/v1/embeddings", None),
    ],
)
def test_models_in_paths(path: str, found: tuple[str, str] | None) -> None:
    """What stands between the fixed parts is the model, with its slashes."""
    assert target(path) == found


def test_the_nearest_route() -> None:
    """A slip of the hand has one; nonsense, however long, has none."""
    routes = ["/v1/embeddings", "/api/embed", "/health"]
    assert nearest("/v1/embedding", routes) == "/v1/embeddings"
    assert nearest("/api/v1/embeddings", routes) == "/v1/embeddings"
    assert nearest("/favicon.ico", routes) is None
    assert nearest("x" * 1_000_000, routes) is None
