import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from mobileclip2.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess


@pytest.mark.parametrize("shape", [(80, 48), (33, 90), (32, 32)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_a_whole_image_becomes_what_open_clip_makes_of_it(shape, resize):
    image = Image.effect_noise(shape, 90).convert("RGB")
    theirs = image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD, resize_mode=resize)
    torch.testing.assert_close(Preprocess(32, resize=resize).whole(image), theirs(image))
