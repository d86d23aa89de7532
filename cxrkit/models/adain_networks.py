"""Lung segmentation with AdaIN: one generator translates a radiograph and segments its lungs.

Oh & Ye 2021, with the networks of StarGAN v2 (Choi et al. 2020). A *style* (B, S) decides what the
generator gives: with the style of a domain the decoder synthesises an image of that domain, without
a style it gives mask logits. The *self code* is a style for the encoder: with it the generator
segments the lungs of an abnormal image in one pass, as if the image had been made normal first.

B batch, C channels, H W image, S style, Z latent, D domains; images are one channel in [-1, 1].
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

DOMAINS = ("abnormal", "normal")  # of images; the mask is the third output, given without a style


def adain(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Adaptive instance normalisation (Huang & Belongie 2017).

    Each channel of each image gets mean `beta` and standard deviation `1 + gamma`; eps is 1e-5.

    Args:
        x: features (B, C, H, W).
        gamma: scale minus 1 (B, C).
        beta: shift (B, C).

    Returns:
        (1 + gamma) * instance_norm(x) + beta, (B, C, H, W).

    Example:
        >>> x = torch.tensor([[[[0.0, 2.0]]]])  # mean 1, deviation 1
        >>> moved = adain(x, gamma=torch.tensor([[1.0]]), beta=torch.tensor([[5.0]]))
        >>> [round(value, 2) for value in moved.flatten().tolist()]  # 5 -+ 2
        [3.0, 7.0]
    """
    scale = 1 + gamma[:, :, None, None]  # (B, C, 1, 1)
    shift = beta[:, :, None, None]  # (B, C, 1, 1)
    return torch.addcmul(shift, _instance_norm(x), scale)  # (B, C, H, W)


def _instance_norm(x: torch.Tensor) -> torch.Tensor:
    """Normalise each channel of each image: a group norm with one channel per group."""
    # twice as fast on a CPU as F.instance_norm; a trace for ONNX needs the channels as a number
    return F.group_norm(x, int(x.shape[1]))


def downsample(x: torch.Tensor) -> torch.Tensor:
    """Average over 2x2 pixels: (B, C, H, W) -> (B, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Repeat each pixel four times: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def select_domain(by_domain: Sequence[torch.Tensor], domain: torch.Tensor) -> torch.Tensor:
    """Take each row from the tensor of its own domain.

    Args:
        by_domain: D tensors (B, n), one of each domain.
        domain: number of the domain of each row, int (B,).

    Returns:
        The selected rows (B, n).
    """
    rows = torch.arange(len(domain), device=domain.device)
    return torch.stack(list(by_domain), dim=1)[rows, domain]  # (B, n)


class AdaIN(nn.Module):
    """`adain` with gamma and beta from a style by one linear layer.

    Without a style it is plain instance normalisation.
    """

    def __init__(self, style_dim: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style_dim, 2 * channels)

    def forward(self, x: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise features (B, C, H, W) with a style (B, S) or with none."""
        if style is None:
            return _instance_norm(x)
        gamma, beta = self.affine(style).chunk(2, dim=1)  # (B, C) each
        return adain(x, gamma, beta)


class Block(nn.Module):
    """Pre-activation residual block; its output is divided by sqrt(2).

    Args:
        channels: of the input.
        out: channels of the output.
        style_dim: S of the AdaIN layers; None leaves normalisation out.
        resize: "half" or "double" the size of the image; None keeps it.
    """

    def __init__(
        self, channels: int, out: int, style_dim: int | None = None, resize: str | None = None
    ) -> None:
        super().__init__()
        hidden = min(channels, out)
        self.norm1 = AdaIN(style_dim, channels) if style_dim else None
        self.norm2 = AdaIN(style_dim, hidden) if style_dim else None
        self.conv1 = nn.Conv2d(channels, hidden, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(hidden, out, kernel_size=3, padding=1)
        self.skip = nn.Identity()
        if channels != out:
            self.skip = nn.Conv2d(channels, out, kernel_size=1, bias=False)
        self.resize = resize

    def forward(self, x: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
        """Map features (B, channels, H, W) to (B, out, H', W')."""
        h = self.norm1(x, style) if self.norm1 else x
        h = F.leaky_relu(h, 0.2)  # (B, channels, H, W)
        if self.resize == "double":
            h = upsample(h)  # (B, channels, 2H, 2W)
        h = self.conv1(h)  # (B, hidden, ...)
        if self.resize == "half":
            h = downsample(h)  # (B, hidden, H/2, W/2)
        h = self.norm2(h, style) if self.norm2 else h
        h = self.conv2(F.leaky_relu(h, 0.2))  # (B, out, H', W')
        return (h + self._shortcut(x)) / math.sqrt(2)

    def _shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """Resize and project the input to (B, out, H', W')."""
        # A 1x1 convolution commutes with copying and averaging pixels, so it runs where there are
        # fewer of them.
        if self.resize == "half":
            return self.skip(downsample(x))
        if self.resize == "double":
            return upsample(self.skip(x))
        return self.skip(x)


class Generator(nn.Module):
    """Encoder, two middle blocks on each side, and a mirrored decoder (Oh & Ye 2021).

    The defaults are the paper's: four halvings and 33.6 M weights.

    Args:
        widths: channels at each resolution, from the image down.
        style_dim: S.
        middle: blocks at the lowest resolution, in the encoder and in the decoder.
        residual: the decoder gives the change of the image instead of the image, so that a short
            training need not learn to copy it first.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        style_dim: int = 16,
        middle: int = 2,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        pairs = list(zip(widths, widths[1:]))
        self.stem = nn.Conv2d(1, widths[0], kernel_size=3, padding=1)
        self.encoder = nn.ModuleList()
        for wide, narrow in pairs:
            self.encoder.append(Block(wide, narrow, style_dim, "half"))
        for _ in range(middle):
            self.encoder.append(Block(widths[-1], widths[-1], style_dim))
        self.decoder = nn.ModuleList()
        for _ in range(middle):
            self.decoder.append(Block(widths[-1], widths[-1], style_dim))
        for wide, narrow in reversed(pairs):
            self.decoder.append(Block(narrow, wide, style_dim, "double"))
        self.to_image = nn.Conv2d(widths[0], 1, kernel_size=1)
        self.to_mask = nn.Conv2d(widths[0], 1, kernel_size=1)
        self.self_code = nn.Parameter(torch.zeros(style_dim))

    def forward(
        self, image: torch.Tensor, style: torch.Tensor | None = None, self_code: bool = False
    ) -> dict[str, torch.Tensor]:
        """Translate an image, or segment its lungs.

        Args:
            image: (B, 1, H, W), H and W divisible by 2^(len(widths) - 1).
            style: of the image to synthesise (B, S); None asks for the lungs.
            self_code: normalise the encoder with the learned self code.

        Returns:
            With a style, `image` (B, 1, H, W); without, `logits` (B, 1, H, W) of the lungs.
        """
        code = self.self_code.expand(image.shape[0], -1) if self_code else None  # (B, S)
        x = self.stem(image)  # (B, widths[0], H, W)
        for block in self.encoder:
            x = block(x, code)
        for block in self.decoder:
            x = block(x, style)
        x = F.leaky_relu(_instance_norm(x), 0.2)  # (B, widths[0], H, W)
        if style is None:
            return {"logits": self.to_mask(x)}  # (B, 1, H, W)
        translated = self.to_image(x)  # (B, 1, H, W)
        if self.residual:
            translated = translated + image
        return {"image": translated}

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Segment the lungs in one pass with the self code: how the trained segmenter is used.

        Args:
            image: (B, 1, H, W).

        Returns:
            Logits (B, 1, H, W).
        """
        return self(image, self_code=True)["logits"]


class Mapping(nn.Module):
    """Mapping network: a latent and a domain give a style.

    Shared layers are followed by layers of each domain.
    """

    def __init__(
        self,
        latent_dim: int = 4,
        style_dim: int = 16,
        hidden: int = 512,
        depth: int = 4,
        domains: int = 2,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shared = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ReLU(), *_hidden_layers(hidden, depth - 1)
        )
        self.heads = nn.ModuleList()
        for _ in range(domains):
            layers = _hidden_layers(hidden, depth - 1)
            self.heads.append(nn.Sequential(*layers, nn.Linear(hidden, style_dim)))

    def forward(self, latent: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        """Map latents (B, Z) and domains, int (B,), to styles (B, S)."""
        styles = [head(self.shared(latent)) for head in self.heads]  # D times (B, S)
        return select_domain(styles, domain)  # (B, S)


def _hidden_layers(hidden: int, depth: int) -> list[nn.Module]:
    """Make `depth` linear layers with ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(hidden, hidden), nn.ReLU()]
    return layers


class ImageEncoder(nn.Module):
    """Residual blocks without normalisation down to 4x4, then one convolution to a vector."""

    def __init__(self, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        halvings = int(math.log2(size)) - 2
        channels = [widths[min(i, len(widths) - 1)] for i in range(halvings + 1)]
        self.stem = nn.Conv2d(1, channels[0], kernel_size=3, padding=1)
        blocks = [Block(a, b, resize="half") for a, b in zip(channels, channels[1:])]
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(channels[-1], channels[-1], kernel_size=size // 2**halvings)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode an image (B, 1, size, size) as a vector (B, widths[-1])."""
        x = self.blocks(self.stem(image))  # (B, C, 4, 4) where size is a power of 2
        x = self.last(F.leaky_relu(x, 0.2))  # (B, C, 1, 1)
        return F.leaky_relu(x, 0.2).flatten(1)  # (B, C)


class StyleEncoder(nn.Module):
    """Style of an image as an image of a domain."""

    def __init__(
        self,
        size: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512),
        style_dim: int = 16,
        domains: int = 2,
    ) -> None:
        super().__init__()
        self.trunk = ImageEncoder(size, widths)  # the name is a state-dict key
        heads = [nn.Linear(widths[-1], style_dim) for _ in range(domains)]
        self.heads = nn.ModuleList(heads)

    def forward(self, image: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        """Map images (B, 1, size, size) and domains, int (B,), to styles (B, S)."""
        features = self.trunk(image)  # (B, C)
        styles = [head(features) for head in self.heads]  # D times (B, S)
        return select_domain(styles, domain)  # (B, S)


class Discriminator(nn.Module):
    """Logit of an image to be a real one of a domain."""

    def __init__(
        self, size: int = 256, widths: Sequence[int] = (64, 128, 256, 512), domains: int = 2
    ) -> None:
        super().__init__()
        self.trunk = ImageEncoder(size, widths)  # the name is a state-dict key
        self.head = nn.Linear(widths[-1], domains)

    def forward(self, image: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        """Map images (B, 1, size, size) and domains, int (B,), to logits (B,)."""
        logits = self.head(self.trunk(image))  # (B, D)
        return logits.gather(1, domain[:, None])[:, 0]  # (B,)


class Translator(nn.Module):
    """The four networks that are trained at once, with He initialisation.

    They are `generator`, `mapping`, `encoder` of styles, and `discriminator`. The buffer `step`
    counts updates, for the weight of the diversity loss that falls to 0; it is saved with the
    weights.

    Args:
        size: px of a side of the images.
        widths: channels of the generator.
        discriminator_widths: channels of the discriminator and of the style encoder.
        style_dim: S.
        latent_dim: Z.
        hidden: units of a layer of the mapping network.
        residual: whether the generator gives the change of an image.
    """

    def __init__(
        self,
        size: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        discriminator_widths: Sequence[int] = (64, 128, 256, 512),
        style_dim: int = 16,
        latent_dim: int = 4,
        hidden: int = 512,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.generator = Generator(widths, style_dim, residual=residual)
        self.mapping = Mapping(latent_dim, style_dim, hidden)
        self.encoder = StyleEncoder(size, discriminator_widths, style_dim)
        self.discriminator = Discriminator(size, discriminator_widths)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.apply(_init_he)

    def fixed_style(self, domain: torch.Tensor) -> torch.Tensor:
        """One fixed style of each domain: that of a latent of ones, as long as random ones are.

        A latent of zeros is no middle. Biases start at 0, so its style is almost 0 in both domains.
        Training never sees such a style, and with it the decoder works as it does for masks.

        Args:
            domain: int (B,).

        Returns:
            Styles (B, S).
        """
        latent = torch.ones(len(domain), self.mapping.latent_dim, device=domain.device)  # (B, Z)
        return self.mapping(latent, domain)  # (B, S)

    def to_normal(self, image: torch.Tensor) -> torch.Tensor:
        """Translate an image (B, 1, H, W) to the fixed style of the normal domain."""
        domain = torch.full((len(image),), DOMAINS.index("normal"), device=image.device)  # (B,)
        style = self.fixed_style(domain)  # (B, S)
        return self.generator(image, style)["image"]


def _init_he(module: nn.Module) -> None:
    """Initialise convolutions and linear layers as He et al. 2015 do."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
