"""Floating-point operations of the models by formula: two for every multiply-add of a matrix product, nothing else counted.

Forward passes of one picture, clip or text. Norms, softmax, activations, embeddings and the three taps over frames are left out: at the
published widths they are below a hundredth of the operations, though not of the time. With D the width, I the intermediate width:

    linear          2 n D_in D_out                             n tokens
    attention       4 n m D                                    scores and mixture, n queries over m keys
    block           n (8 D^2 + 4 D I) + 4 n^2 D                self-attention, feed-forward
    keys, values    4 m D^2                                    of a context of m tokens
    cross block     block + n 4 D^2 + 4 n m D, and the keys and values

The gradient of a product takes two products of its size, so a pass that is learned from costs three times its forward; only the pixels
need no gradient (``patches`` twice). ``torch.utils.flop_counter`` counts the same way and is what the tests compare with.
"""

from __future__ import annotations

from openmplug.models.mplug import MPLUGConfig
from openmplug.models.mplug2 import MPLUG2Config

# ------------------------------------------------------------------------------------------------------------------ products


def linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width


def block(tokens: int, width: int, intermediate: int) -> int:
    """Self-attention and feed-forward over tokens; BERT's and CLIP's blocks differ in nothing that counts."""
    return 4 * linear(tokens, width, width) + attention(tokens, tokens, width) + 2 * linear(tokens, width, intermediate)


def keys_values(context: int, width: int) -> int:
    return 2 * linear(context, width, width)


def cross_attention(tokens: int, context: int, width: int) -> int:
    """Attention to a context whose keys and values are there already."""
    return 2 * linear(tokens, width, width) + attention(tokens, context, width)


def cross_block(tokens: int, context: int, width: int, intermediate: int) -> int:
    return block(tokens, width, intermediate) + keys_values(context, width) + cross_attention(tokens, context, width)


# ------------------------------------------------------------------------------------------------------------- fusion stacks


def connected_stack(vision: int, text: int, width: int, intermediate: int, layers: int) -> int:
    """Every layer over [vision; text]."""
    return layers * block(vision + text, width, intermediate)


def co_attention_stack(vision: int, text: int, width: int, intermediate: int, layers: int) -> int:
    """Both streams with a self-attention, a cross-attention to the other and a feed-forward of their own."""
    return layers * (cross_block(vision, text, width, intermediate) + cross_block(text, vision, width, intermediate))


def skip_connected_stack(
    vision: int, text: int, width: int, intermediate: int, layers: int, connected: int, texts_per_picture: int = 1
) -> int:
    """Fuse one picture with its texts: the vision stream skips all layers but the ``connected`` ones.

    Args:
        vision: ``V`` tokens.
        text: ``T`` tokens of each text.
        width: ``D``.
        intermediate: Of the feed-forward.
        layers: Of the stack.
        connected: How many of them are connected.
        texts_per_picture: Texts that share the picture's keys and values; a connected layer gives each its own copy of the picture, and
            where there is one the co-attention layers after it share nothing. Only stacks without any may have more than 1.
    """
    if connected and texts_per_picture > 1:
        raise ValueError("how much texts share depends on which layer is connected; use fusion()")
    own = block(text, width, intermediate) + cross_attention(text, vision, width)
    asymmetric = keys_values(vision, width) + texts_per_picture * own
    return (layers - connected) * asymmetric + connected * block(vision + text, width, intermediate)


# ------------------------------------------------------------------------------------------------------------------- models


def patch_count(config: MPLUGConfig) -> int:
    return (config.image_size // config.patch_size) ** 2


def kept_frames(config: MPLUGConfig, frames: int) -> int:
    """Frames of a clip that the tower's layers see; 1 for a picture."""
    stride = config.temporal_stride if isinstance(config, MPLUG2Config) else 0
    return max(1, (frames - 1) // stride + 1 if stride and frames else frames)


def vision_tokens(config: MPLUGConfig, frames: int = 0) -> int:
    """Tokens that fusion and decoder see: of a picture, or of a clip of so many frames."""
    count = kept_frames(config, frames)
    return 1 + count * patch_count(config) if isinstance(config, MPLUG2Config) else count * (1 + patch_count(config))


def patches(config: MPLUGConfig, frames: int = 0) -> int:
    """Project pixels; a clip whose frames are merged in time is projected by three taps."""
    taps = 3 if frames and isinstance(config, MPLUG2Config) and config.temporal_stride else 1
    return taps * kept_frames(config, frames) * linear(patch_count(config), 3 * config.patch_size**2, config.vision_width)


def vision(config: MPLUGConfig, frames: int = 0) -> int:
    """Pixels to the tokens that fusion takes, universal layers included.

    Args:
        config: Sizes.
        frames: Of a clip, 0 = a picture. mPLUG encodes frames as pictures; mPLUG-2 passes its temporal modules.
    """
    width, count, seen = config.vision_width, kept_frames(config, frames), 1 + patch_count(config)
    layer = block(seen, width, 4 * width)
    if frames and isinstance(config, MPLUG2Config):
        layer += 4 * linear(seen, width, width // 2)  # two temporal modules, down and up
    total = patches(config, frames) + config.vision_layers * count * layer
    tokens = vision_tokens(config, frames)
    if width != config.width:
        total += linear(tokens, width, config.width)
    if isinstance(config, MPLUG2Config):
        total += (config.universal_layers - 1) * cross_block(config.latents, tokens, config.width, config.intermediate)
        total += cross_block(tokens, config.latents, config.width, config.intermediate)
    return total


def text(config: MPLUGConfig, tokens: int) -> int:
    """A text through the text encoder; mPLUG-2's universal layers are the last of ``text_layers``."""
    return config.text_layers * block(tokens, config.width, config.intermediate)


def fusion(config: MPLUGConfig, seen: int, tokens: int, texts_per_picture: int = 1) -> int:
    """One picture of ``seen`` tokens with its texts of ``tokens`` each; what texts share ends at the first connected layer."""
    total, shared = 0, True
    for layer in range(config.fusion_layers):
        if layer in config.connected_layers:
            total += texts_per_picture * block(seen + tokens, config.width, config.intermediate)
            shared = False
            continue
        own = block(tokens, config.width, config.intermediate) + cross_attention(tokens, seen, config.width)
        total += texts_per_picture * own + (1 if shared else texts_per_picture) * keys_values(seen, config.width)
    return total


def language_head(config: MPLUGConfig, tokens: int) -> int:
    return linear(tokens, config.width, config.width) + linear(tokens, config.width, config.vocab_size)


def decoder(config: MPLUGConfig, tokens: int, context: int, said: int | None = None) -> int:
    """A text of ``tokens`` against a memory of ``context`` tokens; attention is counted without leaving out the future.

    Args:
        config: Sizes.
        tokens: Read by the layers.
        context: Of the memory.
        said: Tokens whose logits are computed; None = all.
    """
    layers = config.decoder_layers * cross_block(tokens, context, config.width, config.intermediate)
    return layers + language_head(config, tokens if said is None else said)


def contrastive(config: MPLUGConfig, frames: int = 0) -> int:
    """Project the class tokens of a picture, or of each of a clip's frames in mPLUG, and of a text."""
    seen = 1 if isinstance(config, MPLUG2Config) else kept_frames(config, frames)
    return linear(seen + 1, config.width, config.embed_dim)


def matching(config: MPLUGConfig) -> int:
    return linear(1, config.width, 2)
