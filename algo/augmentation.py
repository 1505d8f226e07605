"""Random changes of training images that leave their class as it is."""

import torch
import torch.nn.functional as F

__all__ = ["crop_and_flip"]


def crop_and_flip(images, generator, padding=4):
    """Crop each image at random from its zero-padded self and mirror every second one (He et al. 2016, sec. 4.2).

    Parameters
    ----------
    images : float (N, C, H, W), normalised, so that 0 is the mean colour.
    generator : ``torch.Generator`` that draws.
    padding : pixels of zero on every side.

    Returns
    -------
    float (N, C, H, W), new.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding))
    offset = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = offset[0] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = offset[1] + torch.where(mirrored, columns.flip(1), columns)
    number = torch.arange(count).view(-1, 1, 1)
    cropped = padded.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
