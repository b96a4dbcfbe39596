"""The tables that a lowered program consists of, and their columns.

Every table is an array of 64-bit integers, addresses included, so that one compiled function runs every
program. A step's row begins with the columns of `Step`; the others are those of the class named like its
`Op`.
Vectors between steps live in buffers, which are named by their row in the table of buffers.
"""

from __future__ import annotations

from enum import IntEnum

LANES = 16
PAGE = 32  # tokens in a page of the KV cache
KEY_GROUP = 32  # numbers of an 8-bit key that share a scale
STEP_COLUMNS = 16
MAX_THREADS = 1024  # a run has at most one less


class Op(IntEnum):
    EMBED = 0
    NORM = 1
    QUANTIZE = 2
    LINEAR = 3
    ROPE = 4
    ATTENTION = 5
    ROUTE = 6


class Barrier(IntEnum):
    """Whether threads wait for each other after a step."""

    NEVER = 0
    ALWAYS = 1
    # One row: each thread computes small vectors for itself. Several rows: the threads divide them.
    IF_SHARED = 2


class Step(IntEnum):
    OP = 0
    BARRIER = 1
    LOGIT_ROWS_ONLY = 15  # 1: only for the rows that give logits


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
    TABLE4 = 4  # as INT4, with codes looked up in a table


class Matrix(IntEnum):
    FORMAT = 0
    CODES = 1  # address
    SCALES = 2  # address
    MINIMUMS = 3  # address, or 0
    BIAS = 4  # address of fp32 numbers for full tiles, or 0
    ROWS = 5
    COLUMNS = 6  # a multiple of GROUP for INT8 and INT4
    GROUP = 7
    FACTOR = 8  # bits of an fp32 number that multiplies every scale
    STRIDE = 9  # bytes from one expert's codes to the next's
    SCALE_STRIDE = 10  # the same for scales and minimums
    BIAS_STRIDE = 11
    TABLE = 12  # address of 64 bytes: 16 values four times over, each + ZERO
    ZERO = 13  # the code, or the value in the table, that stands for 0; 0 where groups have minimums
    DORA_SCALE = 14  # address of fp32 factors for full tiles, a set for each adapter, or 0
    DORA_SCALE_STRIDE = 15  # bytes from one adapter's factors to the next's
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
    WEIGHT = 4  # address of fp32 numbers, padded with zeros to full vectors
    BIAS = 5  # the same, or 0
    WIDTH = 6
    EPSILON = 7  # bits of an fp32 number
    SUBTRACT_MEAN = 8  # 1 for layer norm, 0 for RMS norm


class Quantize(IntEnum):
    INPUT = 2
    OUT = 3
    WIDTH = 4  # a multiple of GROUP
    GROUP = 5


class Linear(IntEnum):
    MATRIX = 2  # the first of its matrices
    COUNT = 3  # matrices that read the same input; the output of each starts at a new tile
    INPUT = 4
    OUT = 5
    RESIDUAL = 6  # the buffer that is added to the result, or −1
    ACTIVATION = 7
    GATED = 8  # 1: MATRIX is the gate, and MATRIX + 1 what it gates
    EXPERT = 9  # 1 + the rank of the token's expert; 0 for a matrix without experts
    ROUTES = 10  # the buffer of each row's experts, or of its adapter where the matrix has DORA_SCALE
    WEIGH_BY_ROUTER = 11  # 1: the result times the expert's weight
    ALPHA = 12  # of CLAMPED_SWIGLU; bits of fp32 numbers
    LIMIT = 13
    ADAPTER_UPDATE = 14  # the buffer of the adapters' update, laid out like the products, or −1


class Rope(IntEnum):
    LAYER = 2
    QUERIES = 3  # the buffer of queries, keys and values
    KEYS = 4  # bytes into it
    VALUES = 5
    OUT = 6  # queries, scaled, each head in full vectors
    QUERY_NORM = 7  # address, or 0
    KEY_NORM = 8
    EPSILON = 9
    COSINES = 10  # address of fp32 tables [context, DIMS / 2], or 0
    SINES = 11
    DIMS = 12
    INTERLEAVED = 13
    SCALE = 14


class Attention(IntEnum):
    LAYER = 2
    QUERIES = 3
    OUT = 4
    WINDOW = 5  # 0: full attention
    SINKS = 6  # address of fp32 numbers, or 0


class Route(IntEnum):
    SCORES = 2
    OUT = 3  # an `ExpertChoice` for each of the token's experts
    EXPERTS = 4
    ACTIVE = 5


class ExpertChoice(IntEnum):
    """Bytes of one expert of a token."""

    NUMBER = 0
    WEIGHT = 8  # bits of an fp32 number
    SIZE = 16


class QueryGroup(IntEnum):
    """Bytes of what a quantized query says of one of its groups."""

    CODE_SUM = 0
    REMAINDER_SUM = 4
    SCALE = 8
    SIZE = 12


class LayerPages(IntEnum):
    """Columns of the table with a row for each layer."""

    PAGE_TABLE = 0  # address of the table of pages' addresses [slots, PAGE_COUNT]
    OFFSET = 1  # bytes into a page
    SIZE = 2


class State(IntEnum):
    """One array shared by all threads. Columns that several of them write have cache lines of their own."""

    GENERATION = 0  # number of starts · MAX_THREADS + threads that take part in the last one
    ARRIVED = 16  # at barriers, since the program was built
    STOP = 32
    SLEEP = 33  # 1: return instead of waiting for the next start
    ARRIVED_BEFORE = 45  # ARRIVED when the last run began
    RUNS = 46  # number of starts, set before GENERATION
    SELF = 47  # address of this array
    THREADS = 48  # that take part
    ROWS = 49
    MAX_ROWS = 50
    YIELD = 51  # address of a function that yields the processor, or 0
    HEADS = 52
    KV_HEADS = 53
    HEAD_DIM = 54
    HEAD_WIDTH = 55  # HEAD_DIM rounded up to full vectors
    LAYERS = 56  # address of the table of `LayerPages`
    PAGE_COUNT = 57
    ELEMENT_BYTES = 58  # of a key's or value's number: 4 fp32, 2 bf16, 1 int8 with scales
    KEY_BYTES = 59  # of one head's keys in a page; its values follow
    LOGIT_ROWS = 60  # how many rows, the first ones, give logits
    SCORES = 61  # address of each thread's attention scores
    SCORES_STRIDE = 62
    SCRATCH = 63  # address of each thread's scratch memory: a tile of products, a key, a quantized query
    SCRATCH_STRIDE = 64
    HEAD_BYTES = 65  # of one head's keys and values in a page
    TOKENS = 72  # MAX_ROWS tokens, as many positions and as many slots; the array ends after them
