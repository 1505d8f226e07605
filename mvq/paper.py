"""Numbers of the MVQ paper (ASPLOS 2025) that ours stand beside. The costs of an access (Tab. 8) are in
:mod:`golden.traffic`, which computes with them."""

__all__ = ["FIG15", "FIG17", "FIG19", "FIG20", "FIG20_VARIANTS", "SIZES", "TAB7", "TITLES"]

#: rows and columns of the arrays that the paper evaluates.
SIZES = (16, 32, 64)

#: network -> its name in text.
TITLES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vgg16": "VGG-16",
    "mobilenet_v1": "MobileNet-v1",
    "alexnet": "AlexNet",
}

_COMMON = (0.650, 1.505, 4.776)  # one line of the table for both
#: Tab. 7: variant -> area of the array in mm2 at 16, 32, 64 (40 nm, 75 % sparsity).
TAB7 = {
    "ws": (0.188, 0.734, 2.812),
    "ews": (0.36, 1.14, 4.236),
    "ews-c": _COMMON,
    "ews-cm": _COMMON,
    "ews-cms": (0.469, 0.828, 2.129),
}

#: Fig. 15: network -> how many times less the data accesses cost at 16, 32, 64; the middle pair of VGG-16 was hard to
#: read.
FIG15 = {
    "resnet18": (2.9, 3.6, 4.1),
    "resnet50": (2.7, 3.2, 3.4),
    "vgg16": (1.7, 2.4, 1.9),
    "mobilenet_v1": (1.9, 2.0, 1.9),
    "alexnet": (1.9, 2.3, 3.0),
}

#: Fig. 17, 64x64: network -> speed-up over WS of WS-CMS, EWS, EWS-CMS.
FIG17 = {
    "resnet18": (1.4, 1.2, 2.2),
    "resnet50": (1.2, 1.3, 1.9),
    "vgg16": (1.2, 1.3, 1.9),
    "mobilenet_v1": (1.1, 1.3, 1.5),
    "alexnet": (1.1, 1.4, 1.7),
}

#: Fig. 19: network -> size -> TOPS/W of the variants in the order of :data:`hdl.config.VARIANTS`, without DRAM.
FIG19 = {
    "resnet18": {
        16: (0.7, 0.9, 1.5, 1.8, 1.9, 2.3),
        32: (1.5, 2.1, 2.2, 2.6, 3.0, 4.1),
        64: (2.1, 4.5, 2.9, 3.8, 4.3, 6.9),
    },
    "resnet50": {
        16: (0.9, 1.1, 1.8, 1.8, 1.9, 2.4),
        32: (1.4, 2.1, 2.3, 2.7, 3.1, 4.1),
        64: (1.9, 4.0, 2.6, 3.2, 3.4, 5.7),
    },
}

#: variants of Fig. 20.
FIG20_VARIANTS = ("ws-cms", "ews", "ews-cms")
#: Fig. 20: network -> size -> TOPS/W over that of WS, without DRAM; of MobileNet the pointwise layers.
FIG20 = {
    "vgg16": {16: (1.3, 2.4, 4.8), 32: (1.6, 1.6, 3.9), 64: (2.1, 1.4, 4.3)},
    "alexnet": {16: (1.2, 2.4, 3.4), 32: (1.3, 2.0, 3.3), 64: (1.4, 1.4, 2.6)},
    "mobilenet_v1": {16: (1.3, 2.1, 2.5), 32: (1.3, 1.6, 2.3), 64: (1.7, 1.3, 2.7)},
}
