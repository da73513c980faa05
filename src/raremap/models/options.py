"""Options of models; torch is loaded only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raremap.errors import ConfigError, MissingExtra, nearest
from raremap.options import Options

if TYPE_CHECKING:
    from torch import nn


class ModelOptions(Options):
    """A decoder and an encoder of segmentation-models-pytorch, by their names.

    `weights` such as "imagenet" are fetched by the library; null trains from scratch.
    `decoder_channels` makes the decoder of a U-Net narrower or wider, from deep to shallow.
    """

    kind: Literal["smp"] = "smp"
    decoder: str = "unet"
    encoder: str = "resnet18"
    weights: str | None = None
    decoder_channels: tuple[int, ...] | None = Field(default=None, min_length=3, max_length=5)

    def build(self, in_channels: int, num_classes: int) -> nn.Module:
        """The network, `[B, in_channels, H, W]` of any size → logits `[B, num_classes, H, W]`.

        Raises `ConfigError` naming an unknown decoder or encoder with the nearest known one.
        """
        try:
            import segmentation_models_pytorch as smp
        except ImportError:
            raise MissingExtra("segmentation-models-pytorch", "train") from None
        from raremap.models.forward import AnySize

        known = {c.__name__.lower(): c for c in smp.MODEL_ARCHITECTURES_MAPPING.values()}
        if self.decoder not in known:
            raise ConfigError(f"model.decoder '{self.decoder}' is not known; {nearest(self.decoder, known)}")
        more = {}
        if self.decoder_channels is not None:
            more = {"decoder_channels": self.decoder_channels, "encoder_depth": len(self.decoder_channels)}
        try:
            net = known[self.decoder](
                encoder_name=self.encoder,
                encoder_weights=self.weights,
                in_channels=in_channels,
                classes=num_classes,
                **more,
            )
        except KeyError:
            names = smp.encoders.get_encoder_names()
            if self.encoder in names:
                raise ConfigError(
                    f"model.weights '{self.weights}' do not exist for encoder '{self.encoder}'; use null or 'imagenet'"
                ) from None
            raise ConfigError(
                f"model.encoder '{self.encoder}' is not known; {nearest(self.encoder, names)}"
            ) from None
        except (OSError, RuntimeError) as error:
            if self.weights is None:
                raise
            raise ConfigError(
                f"model.weights '{self.weights}' of '{self.encoder}' could not be fetched ({str(error).splitlines()[0][:120]}); "
                "connect to the network once, or set model.weights to null"
            ) from None
        except TypeError as error:
            raise ConfigError(
                f"decoder '{self.decoder}' does not take these options ({error}); leave out model.decoder_channels"
            ) from None
        return AnySize(net, stride=32)
