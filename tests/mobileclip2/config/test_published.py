from __future__ import annotations

import subprocess
import sys

from mobileclip2.config.published import activation, architecture, clean_tag, open_clip_names, pretrained


def test_tables_match_open_clip() -> None:
    import open_clip
    from open_clip.factory import get_model_config

    assert set(open_clip_names()) == set(open_clip.list_models())
    for name in ("ViT-B-16", "MobileCLIP2-S0", "coca_ViT-L-14"):
        assert architecture(name) == get_model_config(name)
        assert list(pretrained(name)) == open_clip.list_pretrained_tags_by_model(name)


def test_the_tables_are_read_without_torch() -> None:
    code = "import sys; from mobileclip2.config.published import pretrained; print(len(pretrained('ViT-B-16')))"
    code += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) > 5


def test_an_unknown_architecture_has_no_tags() -> None:
    assert pretrained("ViT-Z-99") == {}


def test_tags_are_normalized() -> None:
    assert clean_tag("LAION400M-E32") == "laion400m_e32"


def test_the_activation_of_openai_is_quick_gelu() -> None:
    assert activation(pretrained("ViT-B-16")["openai"]) == "quick_gelu"
    assert activation(architecture("ViT-B-16")) == "gelu"
