"""Where weights are: a path, a DeepSpeed folder, a public file by its name, a network of timm's on the Hugging Face hub."""

import contextlib
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from piip import home
from piip.weights import zero
from piip.weights.read import Weights, WeightsError, read_file

_DEIT, _MAE, _DINO = (
    "https://dl.fbaipublicfiles.com/deit",
    "https://dl.fbaipublicfiles.com/mae/pretrain",
    "https://dl.fbaipublicfiles.com/dinov2",
)
_BEIT = "https://github.com/addf400/files/releases/download/BEiT-v2"
_PIIP, _INTERN = (
    "https://huggingface.co/OpenGVLab/PIIP/resolve/main/detection",
    "https://huggingface.co/OpenGVLab/InternVL/resolve/main",
)
_PERCEIVER = "https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1"
_AUGREG, _GOOGLE = "--imagenet2012-steps_20k", "https://storage.googleapis.com/vit_models/augreg"
_S_16 = f"S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0{_AUGREG}-lr_0.03"
_B_16 = f"B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0{_AUGREG}-lr_0.01"
_L_16 = f"L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1{_AUGREG}-lr_0.01"
_INTERNIMAGE = "https://huggingface.co/OpenGVLab/InternImage/resolve/main"
_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"
_CONVNEXT = "https://dl.fbaipublicfiles.com/convnext"
PUBLIC = {
    url.rsplit("/", 1)[1]: url
    for url in (
        f"{_DEIT}/deit_tiny_patch16_224-a1311bcf.pth",
        f"{_DEIT}/deit_3_small_224_21k.pth",
        f"{_DEIT}/deit_3_base_224_21k.pth",
        f"{_DEIT}/deit_3_large_224_21k.pth",
        f"{_DEIT}/deit_3_small_384_21k.pth",
        f"{_DEIT}/deit_3_base_384_21k.pth",
        f"{_DEIT}/deit_3_large_384_21k.pth",
        f"{_MAE}/mae_pretrain_vit_base.pth",
        f"{_MAE}/mae_pretrain_vit_large.pth",
        f"{_MAE}/mae_pretrain_vit_huge.pth",
        f"{_DINO}/dinov2_vits14/dinov2_vits14_pretrain.pth",
        f"{_DINO}/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        f"{_DINO}/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        f"{_BEIT}/beitv2_base_patch16_224_pt1k_ft21k.pth",
        f"{_BEIT}/beitv2_large_patch16_224_pt1k_ft21k.pth",
        f"{_INTERN}/intern_vit_6b_224px.pth",
        f"{_PIIP}/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0{_AUGREG}-lr_0.03-res_384.pth",
        *(f"{_PIIP}/{name}-res_384.pth" for name in (_S_16, _B_16, _L_16)),
        *(f"{_GOOGLE}/{name}-res_{side}.npz" for name in (_S_16, _B_16, _L_16) for side in (224, 384)),
        *(f"{_CONVNEXT}/convnext_{size}_1k_224_ema.pth" for size in ("tiny", "small", "base")),
        *(f"{_INTERNIMAGE}/internimage_{size}_1k_224.pth" for size in "tsb"),
        *(f"{_INTERNIMAGE}/internimage_{size}_22k_192to384.pth" for size in ("l", "xl")),
        *(f"{_INTERNIMAGE}/internimage_{size}_jointto22k_384.pth" for size in "hg"),
        f"{_INTERNIMAGE}/dino_4scale_cbinternimage_h_objects365_80classes.pth",
        *(f"{_DETECTRON}/MSRA/R-{depth}.pkl" for depth in (50, 101)),
        f"{_DETECTRON}/47261647/R-50-GN.pkl",
        f"{_DETECTRON}/47592356/R-101-GN.pkl",
        f"{_DETECTRON}/20171220/X-101-32x8d.pkl",
        f"{_DETECTRON}/FBResNeXt/X-101-64x4d.pkl",
        f"{_DETECTRON}/25093814/X-152-32x8d-IN5k.pkl",
        f"{_PERCEIVER}/uni-perceiver-base-L12-H768-224size-torch-pretrained_converted.pth",
        f"{_PERCEIVER}/uni-perceiver-large-L24-H1024-224size-pretrained_converted.pth",
    )
}
"""File name -> where its authors publish it: the pretraining the released networks started from."""

PATIENCE_S = 5.0
"""How long a host may take to answer at all; the hub's own client asks ten times and takes 46 s to say that it does not."""


def pretrained_folder() -> Path:
    """Where public files are looked for and downloaded to: `$PIIP_DATA/pretrained`."""
    return home.data_root() / "pretrained"


def read_weights(given: str | Path, sha256: str | None = None) -> Weights:
    """The tensors of a file, a DeepSpeed folder or one of its shards, or a public file by name.

    Raises:
        WeightsError: They cannot be had, or are damaged, or are refused.
    """
    path = find(given)
    if path.is_dir():
        if not zero.is_checkpoint(path):
            raise WeightsError(
                f"{path} is a folder without DeepSpeed's *_model_states.pt: give the file with the weights"
            )
        return zero.read_checkpoint(path)
    # a shard, or a model file of stage 3 without values, makes sense beside the others only
    return zero.read_checkpoint(path.parent) if "zero_pp_rank_" in path.name else read_file(path, sha256)


def find(given: str | Path) -> Path:
    """The path itself, or the public file of that name, downloaded when it is not in `pretrained_folder()` yet.

    Raises:
        WeightsError: Neither is there, and it cannot be downloaded.
    """
    path = Path(given).expanduser()
    if path.exists():
        return path.absolute()
    kept = pretrained_folder() / path.name
    if str(given) == path.name and kept.is_file():
        return kept
    if str(given) not in PUBLIC:
        raise WeightsError(
            f"no weights at {given}. Give a path, the name of a file in {pretrained_folder()}, "
            f"or one of the {len(PUBLIC)} public names, such as deit_3_small_224_21k.pth"
        )
    return _download(PUBLIC[str(given)], kept)


def _download(url: str, target: Path) -> Path:
    advice = f"get {url} on another machine and put it in {target.parent}"
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 24)
            expected = answer.headers.get("Content-Length")
        if expected and unfinished.stat().st_size != int(expected):
            raise WeightsError(
                f"{target.name} was cut off at {unfinished.stat().st_size} of {expected} bytes: try again, or {advice}"
            )
        unfinished.replace(target)
    except OSError as error:  # URLError, no route, a full disk
        raise WeightsError(f"cannot download {target.name}: {_short(error)}. Without a network, {advice}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def hub_file(repository: str, filename: str | None = None, *, otherwise: str) -> Path:
    """A network's weights on the Hugging Face hub: from the cache on this machine without asking, else downloaded.

    Args:
        repository: `timm/deit3_small_patch16_224.fb_in22k_ft_in1k`.
        filename: Of the weights there; default: as timm names them.
        otherwise: The end of an error message: what can be done without the hub.

    Raises:
        WeightsError: Not in the cache, and the hub does not answer or does not have them.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    names = (filename,) if filename else ("model.safetensors", "pytorch_model.bin")
    for name in names:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    advice = f"Give this machine a network or a filled HF_HOME cache, or {otherwise}"
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{repository} is not in the hub's cache, and HF_HUB_OFFLINE is set. {advice}")
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, though not a page
            urllib.request.urlopen(request, timeout=PATIENCE_S).close()
        return Path(hf_hub_download(repository, names[0]))
    except (OSError, ValueError) as error:
        why = _short(error).partition("\n")[0][:200]
        raise WeightsError(
            f"{repository} is not in the hub's cache, and {constants.ENDPOINT} does not give it: {why}. {advice}"
        ) from None


def _short(error: Exception) -> str:
    return str(error.reason) if isinstance(error, urllib.error.URLError) else str(error)
