"""The tables that a program is made of, and what stands in each of their columns.

Every table is an array of 64-bit integers, addresses included, so that one compiled function runs every
program. A step's row begins with what it does (`Op`) and whether all threads meet after it; its other columns
are those of the class of that name. Vectors between steps live in buffers, named by their row in the table of
buffers.
"""

from __future__ import annotations

from enum import IntEnum

LANES = 16
PAGE = 32  # tokens whose keys and values lie together
GROUP = 32  # numbers of a key in 8 bits that share a scale
COLUMNS = 16  # of the table of steps
MOST_THREADS = 1024  # and one of these less in a run


class Op(IntEnum):
    EMBED = 0
    NORM = 1
    QUANTIZE = 2
    LINEAR = 3
    ROTATE = 4
    ATTEND = 5
    ROUTE = 6


class Barrier(IntEnum):
    """Whether threads wait for each other after a step."""

    NEVER = 0
    ALWAYS = 1
    # each thread computes small vectors for itself while there is one row; several rows are divided among
    # them
    IF_SHARED = 2


class Step(IntEnum):
    OP = 0
    BARRIER = 1
    WANTED = 15  # 1: only for the rows whose logits are wanted


class Buffer(IntEnum):
    ADDRESS = 0
    STRIDE = 1  # bytes from one row to the next
    THREAD_STRIDE = 2  # bytes from one thread's own copy to the next's; 0 where all share one
    SIZE = 3


class Format(IntEnum):
    """How a matrix lies in memory."""

    FP32 = 0  # rows one after the other
    BF16 = 1
    INT8 = 2  # tiles of 16 rows
    INT4 = 3
    TABLE4 = 4  # as INT4, its codes looked up in a table


class Matrix(IntEnum):
    FORMAT = 0
    CODES = 1  # address
    SCALES = 2  # address
    MINIMUMS = 3  # address, or 0
    BIAS = 4  # address of fp32 numbers for whole tiles, or 0
    ROWS = 5
    COLUMNS = 6  # a whole number of groups for INT8 and INT4
    GROUP = 7
    FACTOR = 8  # the bits of an fp32 number that multiplies every scale
    STRIDE = 9  # bytes from one expert's codes to the next's
    SCALE_STRIDE = 10  # the same for scales and minimums
    BIAS_STRIDE = 11
    TABLE = 12  # address of 64 bytes, 16 values four times over, each + ZERO
    ZERO = 13  # the code, or the value in the table, that stands for 0; 0 where groups have minimums
    # address of fp32 numbers for whole tiles, by which the products of each adapter's rows are multiplied, or
    # 0
    GAIN = 14
    GAIN_STRIDE = 15  # bytes from one adapter's to the next's
    SIZE = 16


class Activation(IntEnum):
    NONE = 0
    GELU = 1
    GELU_TANH = 2
    RELU = 3
    SILU = 4
    CLAMPED_SWIGLU = 5


class Embed(IntEnum):
    MATRIX = 2
    OUT = 3
    POSITIONS = 4  # address of an fp32 table [context, width], or 0
    WIDTH = 5


class Norm(IntEnum):
    INPUT = 2
    OUT = 3
    WEIGHT = 4  # addresses of fp32 numbers, filled up with zeros to whole vectors
    BIAS = 5  # or 0
    WIDTH = 6
    EPSILON = 7  # bits of an fp32 number
    CENTRED = 8  # 1 for layer norm, 0 for RMS norm


class Quantize(IntEnum):
    INPUT = 2
    OUT = 3
    WIDTH = 4  # a whole number of groups
    GROUP = 5


class Linear(IntEnum):
    MATRIX = 2  # the first of its matrices
    # how many matrices read the same input; their outputs follow each other, each from a whole tile on
    COUNT = 3
    INPUT = 4
    OUT = 5
    RESIDUAL = 6  # the buffer that is added, or −1
    ACTIVATION = 7
    GATED = 8  # 1: the matrix is the gate, and MATRIX + 1 what it gates
    EXPERT = 9  # 1 + which of a token's experts; 0 for a plain matrix
    ROUTES = 10  # the buffer of the chosen experts; of the adapters where the matrix has a gain
    WEIGHED = 11  # 1: the result times the expert's share
    ALPHA = 12  # of CLAMPED_SWIGLU; bits of fp32 numbers
    LIMIT = 13
    # the buffer that is added to the products before all else, laid out like those of the matrices, or −1
    ADDED = 14


class Rotate(IntEnum):
    LAYER = 2
    QUERIES = 3  # the buffer of queries, keys and values
    KEYS = 4  # bytes into it
    VALUES = 5
    OUT = 6  # queries, scaled, each head in whole vectors
    QUERY_NORM = 7  # address, or 0
    KEY_NORM = 8
    EPSILON = 9
    COSINES = 10  # address of fp32 tables [context, DIMS / 2], or 0
    SINES = 11
    DIMS = 12
    INTERLEAVED = 13
    SCALE = 14


class Attend(IntEnum):
    LAYER = 2
    QUERIES = 3
    OUT = 4
    WINDOW = 5  # 0 sees all
    SINKS = 6  # address of fp32 numbers, or 0


class Route(IntEnum):
    SCORES = 2
    OUT = 3  # for each chosen expert, its number and the bits of its share
    EXPERTS = 4
    ACTIVE = 5


class State(IntEnum):
    """One array shared by all threads; columns that several of them write stand on cache lines of their
    own."""

    # how many times the program has been started, times MOST_THREADS, and how many threads take part in the
    # last
    GENERATION = 0
    ARRIVED = 16  # at meetings, since the program was made
    STOP = 32
    REST = 33  # 1: do not wait for the next start, but return
    MET = 45  # ARRIVED when the last run began
    CALLED = 46  # how many times the program is about to have been started
    SELF = 47  # address of this array
    THREADS = 48  # that take part
    ROWS = 49
    MAX_ROWS = 50
    YIELD = 51  # address of a function that gives the processor away, or 0
    HEADS = 52
    KV_HEADS = 53
    HEAD_DIM = 54
    HEAD_WIDTH = 55  # HEAD_DIM in whole vectors
    # address of a table with a row for each layer: its table of pages' addresses [slots, PAGE_COUNT], and
    # bytes into a page
    LAYERS = 56
    PAGE_COUNT = 57
    # of a key's or value's number: 4 fp32, 2 bf16, 1 codes with a scale for each token and head
    NUMBER_BYTES = 58
    KEY_BYTES = 59  # of one head's keys in a page; its values stand behind
    WANTED = 60  # how many rows, the first ones, want logits
    SCORES = 61  # address of each thread's scores
    SCORES_STRIDE = 62
    TILE = 63  # address of each thread's tile of products
    TILE_STRIDE = 64
    HEAD_BYTES = 65  # of one head's keys and values in a page
    TOKENS = 72  # MAX_ROWS tokens, as many positions and as many slots; the array ends after them
