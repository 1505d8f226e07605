"""Libraries of a few cells, written by tests."""

NAND = 'cell (N2) { area : 1.0; pin (A) { direction : input; } pin (B) { direction : input; }\
 pin (Y) { direction : output; function : "!(A & B)"; } }'
FLIP_FLOP = 'cell (FF) { area : 4.0; ff (IQ, IQN) { clocked_on : "C"; next_state : "D"; }\
 pin (C) { direction : input; clock : true; } pin (D) { direction : input; }\
 pin (Q) { direction : output; function : "IQ"; } }'


def write_library(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("library (tiny) {\n" + "\n".join(cells) + "\n}\n")
    return path
