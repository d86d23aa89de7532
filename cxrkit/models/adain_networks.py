"""Lung segmentation with AdaIN: one generator that moves a film between normal and abnormal and,
without a style, draws its lungs.

Oh & Ye 2021, on the networks of StarGAN v2 (Choi et al. 2020). A *style* (B, S) says what comes
out: with the style of a domain the decoder synthesises a film of that domain, without one it gives
mask logits. The *self code* is a style for the encoder: with it the generator draws the lungs of an
abnormal film in one pass, as if it had been made normal first.

B batch, C channels, H W image, S style, Z latent, D domains; images are one channel in [-1, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

DOMAINS = ("abnormal", "normal")  # of films; the mask is the third output, drawn without a style


def adain(x, gamma, beta):
    """Adaptive instance normalisation: x (B, C, H, W), gamma and beta (B, C) -> (1 + gamma) *
    instance_norm(x) + beta.

    Each channel of each image gets mean `beta` and standard deviation 1 + gamma (Huang & Belongie
    2017); eps 1e-5.
    """
    # a group for each channel: instance norm, twice as fast on a CPU
    normal = F.group_norm(x, x.shape[1])
    # (B, C, H, W)
    return torch.addcmul(beta[:, :, None, None], normal, 1 + gamma[:, :, None, None])


class AdaIN(nn.Module):
    """`adain` with gamma and beta read off a style by one linear layer; without a style, instance
    normalisation.
    """

    def __init__(self, style_dim, channels):
        super().__init__()
        self.affine = nn.Linear(style_dim, 2 * channels)

    def forward(self, x, style=None):
        if style is None:
            return F.group_norm(x, x.shape[1])
        return adain(x, *self.affine(style).chunk(2, dim=1))  # (B, C, H, W)


def halve(x):
    """Mean over 2x2 pixels: (B, C, H, W) -> (B, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


def double(x):
    """Each pixel four times: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Block(nn.Module):
    """Pre-activation residual block divided by sqrt 2; `resize` is "half", "double" or None,
    `style_dim` None = no normalisation.
    """

    def __init__(self, channels, out, style_dim=None, resize=None):
        super().__init__()
        hidden = min(channels, out)
        self.norm1, self.norm2 = (
            AdaIN(style_dim, c) if style_dim else None for c in (channels, hidden)
        )
        self.conv1 = nn.Conv2d(channels, hidden, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(hidden, out, kernel_size=3, padding=1)
        self.skip = (
            nn.Conv2d(channels, out, kernel_size=1, bias=False)
            if channels != out
            else nn.Identity()
        )
        self.before = double if resize == "double" else nn.Identity()
        self.after = halve if resize == "half" else nn.Identity()

    def forward(self, x, style=None):
        h = F.leaky_relu(self.norm1(x, style) if self.norm1 else x, 0.2)
        h = self.after(self.conv1(self.before(h)))
        h = F.leaky_relu(self.norm2(h, style) if self.norm2 else h, 0.2)
        # a 1x1 convolution commutes with copying and averaging pixels, so it runs where there are
        # fewer of them
        skip = self.skip(self.after(x)) if self.after is halve else self.before(self.skip(x))
        return (self.conv2(h) + skip) / math.sqrt(2)


class Generator(nn.Module):
    """Encoder, two middle blocks, mirrored decoder. The defaults are the paper's: four halvings,
    33.6 M weights.

    image (B, 1, H, W), H and W divisible by 2^(len(widths) - 1). With `style` (B, S) -> dict
    `image` (B, 1, H, W), AdaIN in the decoder; without -> dict `logits` (B, 1, H, W) of the lungs.
    `self_code`: the encoder is normalised with the learned self code. residual: the decoder gives
    the change of the film instead of the film, so that a short training need not learn to copy it
    first.
    """

    def __init__(self, widths=(64, 128, 256, 512, 512), style_dim=16, middle=2, residual=False):
        super().__init__()
        self.residual = residual
        pairs = list(zip(widths, widths[1:], strict=False))
        inner = [(widths[-1], widths[-1], style_dim)] * middle
        self.stem = nn.Conv2d(1, widths[0], kernel_size=3, padding=1)
        self.encoder = nn.ModuleList(
            [
                *(Block(a, b, style_dim, "half") for a, b in pairs),
                *(Block(*sizes) for sizes in inner),
            ]
        )
        self.decoder = nn.ModuleList(
            [
                *(Block(*sizes) for sizes in inner),
                *(Block(b, a, style_dim, "double") for a, b in pairs[::-1]),
            ]
        )
        self.to_image, self.to_mask = (nn.Conv2d(widths[0], 1, kernel_size=1) for _ in range(2))
        self.self_code = nn.Parameter(torch.zeros(style_dim))

    def forward(self, image, style=None, self_code=False):
        code = self.self_code.expand(len(image), -1) if self_code else None  # (B, S)
        x = self.stem(image)
        for block in self.encoder:
            x = block(x, code)
        for block in self.decoder:
            x = block(x, style)
        x = F.leaky_relu(F.group_norm(x, x.shape[1]), 0.2)  # (B, widths[0], H, W)
        return (
            {"logits": self.to_mask(x)}
            if style is None
            else {"image": self.to_image(x) + image * self.residual}
        )

    def draw(self, image):
        """Logits (B, 1, H, W) of the lungs in one pass with the self code: the finished segmenter,
        in training and ever after.
        """
        return self(image, self_code=True)["logits"]


class Mapping(nn.Module):
    """Latent (B, Z) and domain (B,) int -> style (B, S): shared layers, then layers of each
    domain's own.
    """

    def __init__(self, latent_dim=4, style_dim=16, hidden=512, depth=4, domains=2):
        super().__init__()
        self.latent_dim = latent_dim
        self.shared = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ReLU(), *self._layers(hidden, depth - 1)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(*self._layers(hidden, depth - 1), nn.Linear(hidden, style_dim))
            for _ in range(domains)
        )

    @staticmethod
    def _layers(hidden, depth):
        return [layer for _ in range(depth) for layer in (nn.Linear(hidden, hidden), nn.ReLU())]

    def forward(self, latent, domain):
        return pick([head(self.shared(latent)) for head in self.heads], domain)  # (B, S)


def pick(by_domain, domain):
    """D tensors (B, n) -> (B, n): each row from the tensor of its own domain."""
    return torch.stack(by_domain, dim=1)[torch.arange(len(domain), device=domain.device), domain]


class Trunk(nn.Module):
    """Image (B, 1, size, size) -> one vector (B, widths[-1]): residual blocks without normalisation
    down to 4x4, then one convolution.
    """

    def __init__(self, size, widths):
        super().__init__()
        steps = int(math.log2(size)) - 2
        sizes = [widths[min(i, len(widths) - 1)] for i in range(steps + 1)]
        self.stem = nn.Conv2d(1, sizes[0], kernel_size=3, padding=1)
        self.blocks = nn.Sequential(
            *(Block(a, b, resize="half") for a, b in zip(sizes, sizes[1:], strict=False))
        )
        self.last = nn.Conv2d(sizes[-1], sizes[-1], kernel_size=size // 2**steps)

    def forward(self, image):
        x = F.leaky_relu(self.blocks(self.stem(image)), 0.2)  # (B, C, 4, 4) at a power of two
        return F.leaky_relu(self.last(x), 0.2).flatten(1)  # (B, C)


class StyleEncoder(nn.Module):
    """Image and domain -> the style of that image as a film of that domain (B, S)."""

    def __init__(self, size=256, widths=(64, 128, 256, 512), style_dim=16, domains=2):
        super().__init__()
        self.trunk = Trunk(size, widths)
        self.heads = nn.ModuleList(nn.Linear(widths[-1], style_dim) for _ in range(domains))

    def forward(self, image, domain):
        features = self.trunk(image)
        return pick([head(features) for head in self.heads], domain)  # (B, S)


class Discriminator(nn.Module):
    """Image and domain -> logit (B,) of being a real film of that domain."""

    def __init__(self, size=256, widths=(64, 128, 256, 512), domains=2):
        super().__init__()
        self.trunk = Trunk(size, widths)
        self.head = nn.Linear(widths[-1], domains)

    def forward(self, image, domain):
        return self.head(self.trunk(image)).gather(1, domain[:, None])[:, 0]  # (B,)


class Translator(nn.Module):
    """The four networks that learn together: `generator`, `mapping`, `encoder` of styles,
    `discriminator`; He initialisation.

    `step` counts updates, for the weight of the diversity loss that falls to 0; it is saved with
    the weights.
    """

    def __init__(
        self,
        size=256,
        widths=(64, 128, 256, 512, 512),
        judge_widths=(64, 128, 256, 512),
        style_dim=16,
        latent_dim=4,
        hidden=512,
        residual=False,
    ):
        super().__init__()
        self.generator = Generator(widths, style_dim, residual=residual)
        self.mapping = Mapping(latent_dim, style_dim, hidden)
        self.encoder = StyleEncoder(size, judge_widths, style_dim)
        self.discriminator = Discriminator(size, judge_widths)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def style(self, domain):
        """One fixed style of each domain: domain (B,) int -> (B, S), the style of a latent of ones,
        which is as long as random ones are.

        A latent of zeros is no middle: biases start at 0, so its style is almost nothing in both
        domains, a style that training never saw and with which the decoder works as it does for
        masks.
        """
        return self.mapping(
            torch.ones(len(domain), self.mapping.latent_dim, device=domain.device), domain
        )

    def to_normal(self, image):
        """The film with the fixed style of the normal domain: (B, 1, H, W) -> (B, 1, H, W)."""
        domain = torch.full((len(image),), DOMAINS.index("normal"), device=image.device)
        return self.generator(image, self.style(domain))["image"]
