"""One frozen configuration for model, objective, training and scoring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from advit.errors import ConfigError, nearest

CHOICES = {
    "model": ("advit", "vt_adl"),
    "density_context": ("others", "self"),
    "density_target": ("filters", "pixels", "encoded"),
    "density_score": ("nll", "surprise"),
    "minimax": ("both", "maximise", "minimise", "none"),
    "kernels": ("plain", "fused", "auto"),
    "precision": ("float32", "bfloat16", "float64", "auto"),
    "schedule": ("constant", "cosine"),
    "score": ("density", "reconstruction", "discrepancy", "association", "combined"),
    "standardise": ("shrunk", "position", "image", "none"),
    "score_standardise": ("shrunk", "position", "image", "none"),
}


def must_be_chosen(name: str, value: str, option: str) -> None:
    """Raises ValueError unless ``value``, called ``name``, is one that CHOICES has for ``option``."""
    if value not in CHOICES[option]:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(CHOICES[option])}")


MOST = {  # else endless
    "filter_levels": 16, "factors": 512, "depth": 1000, "mask_draws": 1000, "map_sigma": 512, "score_sigma": 512,
}  # fmt: skip
LARGEST_SEED = 10**12  # with the step number it still fits the generators' 64 bits


def require_seed(seed: int) -> None:
    """Raise ConfigError for a seed that the generators cannot take."""
    if abs(seed) > LARGEST_SEED:
        raise ConfigError(f"--seed {seed}: must lie between -{LARGEST_SEED} and {LARGEST_SEED}.")


def option(default: Any, text: str) -> Any:
    """A field with its one-line explanation, shown by ``advit train --help-options``."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ADViTConfig:
    """Everything that decides a run besides data, seed and device. The defaults are the public setting.

    Raises:
        ConfigError: from :meth:`validate`, naming the option and what it may be.

    Test: tests/test_config.py
    """

    model: str = option("advit", "advit, or vt_adl: the public code's computation, for comparison")
    image_size: int = option(512, "images are resized to this many pixels square; nothing is cropped")
    patch: int = option(64, "side of a patch in pixels; divides image_size")
    dim: int = option(512, "width d of the tokens")
    depth: int = option(6, "encoder layers L")
    heads: int = option(8, "attention heads M; divides dim")
    mlp_dim: int = option(1024, "hidden width of the encoder's MLP")
    sigma_max: float = option(2.0, "upper end of the prior-association's scale, in patches")
    noise_sd: float = option(0.2, "Gaussian noise on the encoded features, in training mode only")
    bottleneck: int = option(512, "length of the reconstruction vector")
    decoder_width: int = option(32, "channels of the decoder's first stage")
    reconstruction_scale: int = option(1, "the reconstruction has 1 / this of the image's side; divides patch")

    components: int = option(10, "Gaussians K of the mixture")
    density_context: str = option("self", "the mixture of a patch is predicted from: self, or others (patch masked)")
    density_target: str = option("encoded", "whose density is predicted: encoded features, patch pixels, or filters")
    target_cells: int = option(1, "places per side of a patch with a density of their own, for density_target=filters")
    filter_levels: int = option(4, "wavelengths of the filters: 4 px, 8 px and so on, each twice the one before")
    least_change: float = option(0.01, "a smaller change of a filter, as a share of its value, is never judged")
    factors: int = option(0, "at most this many factors of the whole image are taken off every place (filters)")
    target_dim: int = option(24, "whitened principal components kept of the patch pixels")
    density_hidden: int = option(0, "hidden width of the density network; 0 for linear heads")
    log_variance_floor: float = option(-7.0, "lower bound of the mixture's log-variances")
    mask_share: float = option(0.5, "share of patches masked, in training and scoring, with density_context=others")
    mask_blocks: str = option("1", "sides in patches of the squares that are masked, like 1,2,4,all; all masks all")

    mse_weight: float = option(5.0, "weight of the reconstruction's mean squared error")
    ssim_weight: float = option(0.5, "weight of the reconstruction's SSIM")
    minimax_lambda: float = option(3.0, "weight of the association discrepancy")
    minimax: str = option("both", "phases that the discrepancy's gradient takes: both, maximise, minimise, none")
    smoothing_eps: float = option(1e-4, "both associations are mixed with this share of the uniform one")
    density_weight: float = option(1.0, "weight of the density's NLL per patch and dimension")

    epochs: int = option(400, "passes over the training images")
    max_steps: int = option(0, "stop after this many steps if that is fewer; 0 for no such limit")
    batch_size: int = option(8, "images in a step")
    learning_rate: float = option(1e-4, "Adam's learning rate, at its peak")
    weight_decay: float = option(1e-4, "Adam's L2 penalty")
    schedule: str = option("constant", "learning rate over the run: constant, or cosine (5 % warm-up, then to 0)")
    gradient_clip: float = option(0.0, "largest gradient norm of a step; 0 for no limit")
    shift: int = option(0, "training images are moved by up to this many pixels, edges reflected")
    brightness: float = option(0.0, "training images are multiplied by 1 +- this")
    precision: str = option("float32", "of matrix products; float64: of all; auto: bfloat16 where the device has it")
    kernels: str = option("plain", "the discrepancy's arithmetic: plain, fused (in one pass), auto: fused on a CPU")

    score: str = option("density", "the anomaly map: density, reconstruction, discrepancy, association, combined")
    density_score: str = option("nll", "of a patch: nll, or surprise, the NLL less what the mixture expects of it")
    most_deviation: float = option(0.0, "a number is judged as at most this many sd off its Gaussian; 0 for no limit")
    near_share: float = option(1.0, "what a place's neighbourhoods add to its score counts this much, 0 to 1 (filters)")
    standardise: str = option("image", "unit of a map: statistics per position (position, shrunk), of images, or none")
    score_standardise: str = option("image", "unit of the map whose maximum is the image score: the same choices")
    mask_draws: int = option(1, "sets of complementary masks averaged per image, with density_context=others")
    score_shifts: int = option(1, "shifted copies per axis, woven into a map this many times as fine")
    map_sigma: float = option(4.0, "Gaussian smoothing of the anomaly map, in pixels at 512, scaled with the size")
    fade: float = option(0.0, "a map is divided by 1 + its mean around each pixel / this: halos fade; 0 for no")
    score_sigma: float = option(4.0, "Gaussian smoothing of the map whose maximum is the image score, as map_sigma")
    top_share: float = option(0.0, "image score: mean of this share of the highest pixels; 0 for the maximum")
    evaluation_size: int = option(256, "maps and masks are compared at this many pixels square")

    def __post_init__(self) -> None:
        self.validate()

    @property
    def grid(self) -> int:
        """Patches along one side, g = H / p."""
        return self.image_size // self.patch

    @property
    def block_sides(self) -> list[int]:
        """Sides of the masked squares in patches; "all" is the whole grid. Raises ValueError for anything else.

        A square as large as the grid or larger is half as large as the grid: something has to remain visible.
        """
        half = max(1, self.grid // 2)

        def side(part: str) -> int:
            return self.grid if part == "all" else int(part) if int(part) < self.grid else half

        return [side(part) for part in self.mask_blocks.split(",")]

    def validate(self) -> None:
        """Check every option against its type, its choices and the others."""
        for f in fields(self):
            value = getattr(self, f.name)
            kind = type(f.default)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ConfigError(f"{f.name} must be {kind.__name__}, got {value!r}.")
            if f.name in CHOICES and value not in CHOICES[f.name]:
                known = CHOICES[f.name]
                raise ConfigError(f"{f.name}={value!r}: must be one of {', '.join(known)}.{nearest(value, known)}")
            if kind in (int, float) and f.name != "log_variance_floor" and not 0 <= value < float("inf"):
                raise ConfigError(f"{f.name}={value}: must be a finite number, zero or more.")
        positive = "image_size patch dim depth heads mlp_dim sigma_max bottleneck decoder_width components target_dim"
        positive += " epochs batch_size learning_rate mask_draws score_shifts target_cells filter_levels"
        for name in [*positive.split(), "reconstruction_scale", "evaluation_size", "smoothing_eps", "least_change"]:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be above zero.")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at most {most}.")
        if self.image_size % self.patch:
            raise ConfigError(f"image_size={self.image_size} is not a multiple of patch={self.patch}.")
        if self.patch % self.reconstruction_scale:
            raise ConfigError(f"reconstruction_scale={self.reconstruction_scale} does not divide patch={self.patch}.")
        if self.dim % self.heads:
            raise ConfigError(f"dim={self.dim} is not a multiple of heads={self.heads}.")
        if not self.smoothing_eps < 1 or not 0 < self.mask_share < 1:
            raise ConfigError("smoothing_eps and mask_share must lie between 0 and 1.")
        if max(self.top_share, self.near_share) > 1:
            raise ConfigError("top_share and near_share must be at most 1.")
        doubled = (self.score_shifts - 1) * self.patch
        if doubled % (2 * self.score_shifts) or self.patch % self.score_shifts:
            raise ConfigError(
                f"score_shifts={self.score_shifts}: the shifts of patch={self.patch} would not be whole pixels. "
                "Use 1, 2 or 4 with a patch divisible by 4 or 8."
            )
        try:
            possible = all(1 <= side <= self.grid for side in self.block_sides)
            possible = possible and (self.grid == 1 or min(self.block_sides) < self.grid)
        except ValueError:
            possible = False
        if not possible:
            known = f"sides from 1 to {self.grid}, not all alone, as 1,2,all"
            raise ConfigError(f"mask_blocks={self.mask_blocks}: {known}.")
        if self.target_cells > 1 and (self.density_target != "filters" or self.score_shifts > 1):
            raise ConfigError("target_cells above 1 needs density_target=filters and score_shifts=1.")
        place = self.patch / self.target_cells
        if self.density_target == "filters" and (place < 4 or place % 1):
            raise ConfigError(f"target_cells={self.target_cells}: places of patch={self.patch} need 4 pixels or more.")
        longest = 2 << self.filter_levels  # px
        if self.density_target == "filters" and not 8 <= longest <= self.image_size:
            raise ConfigError(
                f"filter_levels={self.filter_levels}: the longest wavelength, {longest} px, must be 8 px or more and "
                f"fit into image_size={self.image_size}."
            )
        if self.shift >= self.image_size:
            raise ConfigError(f"shift={self.shift}: must be below image_size={self.image_size}.")
        if not -50 <= self.log_variance_floor <= 0:
            raise ConfigError(f"log_variance_floor={self.log_variance_floor}: must lie between -50 and 0.")
        for name in ("standardise", "score_standardise"):
            if self.score == "combined" and getattr(self, name) == "none":
                raise ConfigError(f"score=combined adds maps of different units: set {name}=image, position or shrunk.")
        if self.model == "vt_adl" and (self.mse_weight, self.ssim_weight, self.density_weight) != (5.0, 0.5, 1.0):
            raise ConfigError("model=vt_adl has the public weights 5, 0.5 and 1; they cannot be set.")
        if self.model == "vt_adl" and self.score in ("discrepancy", "association"):
            raise ConfigError(f"score={self.score}: vt_adl has no prior-association. Use density or reconstruction.")
        if self.target_dim > 3 * self.patch**2:
            raise ConfigError(f"target_dim={self.target_dim}: a patch has only {3 * self.patch**2} values.")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary of every option, for JSON."""
        return asdict(self)


def with_options(config: ADViTConfig, options: dict[str, Any]) -> ADViTConfig:
    """Copy of ``config`` with options changed; an unknown name raises and names the nearest valid one."""
    known = [f.name for f in fields(ADViTConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"Unknown option {name!r}.{nearest(name, known)} 'advit train --help-options' lists all.")
    return replace(config, **options)


def parse_options(pairs: Iterable[str]) -> dict[str, Any]:
    """``["epochs=3", "score=density"]`` to typed values, by the type of each option's default."""
    kinds = {f.name: type(f.default) for f in fields(ADViTConfig)}
    options: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise ConfigError(f"--set {pair}: write it as name=value, for instance --set epochs=50.")
        if name not in kinds:
            with_options(ADViTConfig(), {name: None})
        try:
            options[name] = kinds[name](text)
        except ValueError:
            raise ConfigError(f"--set {pair}: {name} takes {kinds[name].__name__}, not {text!r}.") from None
    return options
