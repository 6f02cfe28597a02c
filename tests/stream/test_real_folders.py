"""sentence-transformers and diffusers load what expo writes; it computes what arithmetic on their own models does."""

import pytest
import torch
import transformers
from engine import command
from tokenizers import Tokenizer, models, pre_tokenizers

pytestmark = pytest.mark.folders
ALPHA = 0.5


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder and its tokenizer in a folder."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "sentence"]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=8, **shape)).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def nudge(*modules):
    """Move all parameters a little, always the same way."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (p for module in modules for p in module.parameters()):
            parameter.add_(0.02 * torch.randn_like(parameter))


def extrapolate(one, other):
    """The arithmetic in memory, put into `other`."""
    with torch.no_grad():
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            b.copy_(b.double() + ALPHA * (b.double() - a.double()))


def run(capsys, tmp_path):
    sides = ["--sft", tmp_path / "sft", "--dpo", tmp_path / "dpo"]
    assert command(capsys, "extrapolate", *sides, "--alpha", ALPHA, "-o", tmp_path / "out")[0] == 0
    return tmp_path / "out"


def test_a_sentence_transformer_embeds_as_arithmetic_on_its_modules_does(encoder, tmp_path, capsys):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    def model():
        torch.manual_seed(0)
        parts = [modules.Transformer(str(encoder)), modules.Pooling(16, pooling_mode="mean"), modules.Dense(16, 6)]
        return library.SentenceTransformer(modules=[*parts, modules.Normalize()], device="cpu")

    sft, dpo = model(), model()
    nudge(dpo)
    sft.save(str(tmp_path / "sft"))
    dpo.save(str(tmp_path / "dpo"))
    out = library.SentenceTransformer(str(run(capsys, tmp_path)), device="cpu")
    extrapolate(sft, dpo)
    said, wanted = (torch.as_tensor(one.encode(["a small sentence", "small a"])) for one in (out, dpo))
    assert torch.allclose(said, wanted, atol=1e-6) and said.shape == (2, 6)


def test_a_diffusion_pipeline_loads_with_every_part_extrapolated(encoder, tmp_path, capsys):
    library = pytest.importorskip("diffusers")
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    noise = library.DDIMScheduler(steps_offset=1, clip_sample=False)

    def pipeline():
        torch.manual_seed(0)
        unet = library.UNet2DConditionModel(
            **blocks, layers_per_block=1, sample_size=8, cross_attention_dim=16, attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        vae = library.AutoencoderKL(
            **blocks, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2
        )
        clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=8, **text))
        names = transformers.AutoTokenizer.from_pretrained(encoder)
        beside = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return library.StableDiffusionPipeline(vae, clip, names, unet, noise, **beside)

    sft, dpo = pipeline(), pipeline()
    nudge(dpo.unet, dpo.vae, dpo.text_encoder)
    sft.save_pretrained(tmp_path / "sft")
    dpo.save_pretrained(tmp_path / "dpo", max_shard_size="40KB")  # with an index each
    out = library.StableDiffusionPipeline.from_pretrained(run(capsys, tmp_path))
    for part in ("unet", "vae", "text_encoder"):
        extrapolate(getattr(sft, part), getattr(dpo, part))
        found, wanted = (getattr(one, part).state_dict() for one in (out, dpo))
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted), part
