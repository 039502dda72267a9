"""What `finf init KIND` writes: a config that explains itself."""

SCAN = """\
# A leakage scan. This file says what is computed; flags of `finf scan` say where and how (--store, --actors, ...).
kind = "scan"
name = "my-scan"

[model]
path = "path/to/checkpoint"        # Hugging Face folder with safetensors; a folder, s3://..., or a hub id
# context_tokens = 1024            # longest window; default: the model's own maximum
# dtype = "bfloat16"               # default float32
# chat_template = "plain"          # how chats become text: default the tokenizer's own template, or "role: content"

[corpus]
path = "s3://bucket/corpus/*.parquet"
# sample = "s3://bucket/first/*"   # of a corpus that grows: shards that stay, on which all is fitted that scores hang
                                   # on, so that a new shard does not have the old ones scored again (docs/NIGHTS.md)
text_column = "text"               # a field of a struct: "meta.body.text". Or one of these (docs/CORPUS.md):
# text_template = "{q}\\n{a}"       # text from several columns
# tokens_column = "input_ids"      # lists of token ids of this model's tokenizer
# messages_column = "messages"     # chats: lists of {role, content} or {from, value}
# loss_on = "assistant"            # of chats: only what the assistant says counts
# id_column = "document_id"        # default: the row number
# source_column = "meta.source"    # the report counts leaks by source, and by date
# date_column = "meta.date"
# on_bad_row = "skip"              # null, empty or too long text, or broken UTF-8: default "fail"; "skip" counts and
                                   # names such rows
# max_row_bytes = 8_000_000        # what is too long: tokenising takes up to 250 bytes of memory for each

[queries]
path = "benchmark.jsonl"           # Parquet, JSONL or the name of a data set
context = "{prompt}"               # read, not scored
target = "{solution}"              # the loss is taken here: the part that can leak
# choices_column = "choices"       # multiple choice: the templates then know {choices} ("A. ..." lines), {answer} (the
# answer_column = "answer"         # right choice's text) and {answer_label}; a number from 0, a label or the text
# messages_column = "messages"     # chats, without context and target: the assistant's last message is the target
# id_column = "task_id"
# controls = "held_back.jsonl"     # items like the queries that are known to be clean (written after the corpus, or
                                   # never published): verdicts then have p- and q-values; the more, the sharper

[update]
kind = "kfac"                      # or "ekfac", "diagonal", "sgd", "adam" (the paper's released recipe, with
                                   # learning_rate = 5e-3), "adam_moments" (with optimizer_state = "optimizer.pt")
move_nats = 0.1                    # how far the query's own loss is moved, in nats per target
# damping = 0.1                    # of the curvature, relative to its mean eigenvalue
# rank = 32                        # of a large model: keep so many directions of each matrix of an update
# steps = 1                        # the same move in several steps
# difference = "forward"           # or "central", "jvp"; default: the cheapest whose signal stands out from rounding
# moves = "last:2"                 # "all", the last blocks, or a pattern over parameter names

[strategy]
kind = "auto"                      # "every_query", "one_pass" (all queries in one pass, then each on its best rows),
                                   # "grouped"; default: one_pass if that halves the cost (see `finf plan`)
# rescored_rows = 20               # kept for each query by the first pass, to be scored by the whole update; default:
                                   # as many as cost about one forward pass over the corpus, at least top_k;
                                   # two million at most for all queries together

[rank]
top_k = 20
# by = "control_z"                 # order of a query's rows, and what it is judged by; default "row_ratio"
# lexical_k = 3                    # rows kept by shared word sequences, and as many by BM25; 0: words are not compared
# ngram_words = 8

[verdict]
fdr = 0.05                         # largest expected share of clean queries among those called leaked by their
                                   # q-value; needs queries.controls
copied_from = 0.5                  # mirror ratio of the best row from which a query counts as copied
shared_from = 0.5                  # share of its word sequences that one row holds, from which it does too
"""

ATTRIBUTE = """\
# Proponents and opponents of test examples. This file says what is computed; flags say where and how.
kind = "attribute"
name = "my-attribution"

[model]                            # a classifier of images; text: `finf init scan`; generated images:
kind = "classifier"                # `finf init diffusion`; any other model: docs/MODELS.md
factory = "my_package.networks:build"  # your function without arguments that gives the torch module: it runs here
path = "path/to/weights"           # folder with *.safetensors of its state dict; or s3://...
# [model.images]                   # how a picture becomes floats, as in training; default: 0 to 1, as large as it is
# size = 32
# mean = [0.5, 0.5, 0.5]
# std = [0.25, 0.25, 0.25]

[corpus]
path = "s3://bucket/train/*.parquet"
image_column = "image"             # bytes, {bytes, path} (the image feature of `datasets`), or arrays of 0 to 255
# image_mode = "L"                 # one channel of grey; default "RGB"
label_column = "label"             # classes, from 0
# id_column = "name"

[queries]
path = "test.parquet"              # test examples, with the same columns
# id_column = "name"
# group_column = "group"           # examples with the same value are one query
# limit = 20

[update]
kind = "kfac"                      # or "ekfac", "diagonal", "sgd", "adam"; see `finf init scan`
move_nats = 0.1

[rank]
top_k = 10                         # proponents
opponents_k = 10
by = "row_ratio"                   # or "mirror_ratio", "control_z"
"""

DIFFUSION = """\
# Training images that generated images lean on. This file says what is computed; flags say where and how.
kind = "attribute"
name = "my-images"

[model]
kind = "diffusion"
path = "path/to/ddpm"              # folder of diffusers (unet/ or transformer/, and scheduler/), s3://..., or a hub id
# factory = "my_package.networks:denoiser"  # or your own network, called with (sample, timesteps); path: its weights
# [model.diffusion.schedule]       # and what it was trained with, in the names of diffusers
# prediction_type = "v_prediction"
# beta_schedule = "squaredcos_cap_v2"
[model.diffusion]                  # what the loss of an image is taken over
timesteps = 16                     # spread over those of the training; each costs a forward pass
seed = 0                           # of the noise
normalise = false                  # true: each timestep relative to its own error

[corpus]
path = "s3://bucket/train/*.parquet"
image_column = "image"             # bytes, {bytes, path} (the image feature of `datasets`), or arrays of 0 to 255
image_mode = "RGB"                 # as many channels as the network reads; "L": one of grey
# id_column = "name"

[queries]
path = "generated.parquet"         # images, generated or not, with the same columns
# id_column = "name"

[update]
kind = "kfac"                      # plain ascent ("sgd") is little better than chance here (docs/DIFFUSION.md)
move_nats = 0.1

[rank]
top_k = 10                         # proponents
opponents_k = 10
"""

MISLABEL = """\
# Training rows by harm to clean validation rows. This file says what is computed; flags say where and how.
kind = "mislabel"
name = "my-labels"

[model]                            # a classifier of images that was trained on the corpus, wrong labels and all
kind = "classifier"
factory = "my_package.networks:build"  # your function without arguments that gives the torch module: it runs here
path = "path/to/weights"           # folder with *.safetensors of its state dict; or s3://...
# [model.images]                   # how a picture becomes floats, as in training; default: 0 to 1, as large as it is
# size = 32
# mean = [0.5, 0.5, 0.5]
# std = [0.25, 0.25, 0.25]

[corpus]
path = "s3://bucket/train/*.parquet"
image_column = "image"             # bytes, {bytes, path} (the image feature of `datasets`), or arrays of 0 to 255
# image_mode = "L"                 # one channel of grey; default "RGB"
label_column = "label"             # classes, from 0: the labels that are doubted
# label_names = ["cat", "dog"]     # what the report calls them, in order
# id_column = "name"

[queries]
path = "validation.parquet"        # a few hundred examples whose labels were checked, with the same columns
group_column = "label"             # one query for each class (docs/MISLABEL.md says why); each costs a pass
# limit = 1000

[update]
kind = "ekfac"                     # the best that was measured; or "kfac", "sgd", ...: see `finf init scan`
move_nats = 0.1

[rank]
top_k = 100                        # suspects that the report shows; suspects.parquet holds every row
"""

MEMORIZE = """\
# Training rows by the influence on themselves, near-duplicates too. This file says what is computed; flags how.
kind = "memorize"
name = "my-memory"

[model]                            # a classifier of images; text: path alone; any other model: docs/MODELS.md
kind = "classifier"
factory = "my_package.networks:build"  # your function without arguments that gives the torch module: it runs here
path = "path/to/weights"           # folder with *.safetensors of its state dict; or s3://...
# [model.images]                   # how a picture becomes floats, as in training; default: 0 to 1, as large as it is
# size = 32

[corpus]                           # what the model was trained on; text: text_column, as in `finf init scan`
path = "s3://bucket/train/*.parquet"
image_column = "image"
label_column = "label"             # the report shows each class
# label_names = ["cat", "dog"]
# id_column = "name"

[update]
kind = "kfac"                      # or "ekfac", "diagonal", "sgd" (the square of the gradient's norm)
# damping = 0.1                    # of the curvature, relative to its mean eigenvalue

[duplicates]                       # rows that are nearly the same are measured together, too
image_distance = 0.03              # root mean square between small grey versions, black against white is 1
shared_words = 0.5                 # of texts: share of the shorter one's word sequences
most_rows = 50_000                 # of a larger corpus no groups are sought

[rank]
top_k = 12                         # rows that the report shows of each class; memorized.parquet holds every row
"""

TRACE = """\
# The rows that taught a language model its facts. This file says what is computed; flags say where and how.
kind = "trace"
name = "my-facts"

[model]
path = "path/to/checkpoint"        # Hugging Face folder with safetensors; a folder, s3://..., or a hub id

[corpus]
path = "s3://bucket/corpus/*.parquet"
text_column = "text"               # other forms: `finf init scan`, docs/CORPUS.md
# id_column = "document_id"

[queries]
path = "facts.jsonl"               # one line a fact: Parquet, JSONL or the name of a data set
context = "{prompt}"               # "Mount Fuji lies in": read, not scored
target = "{answer}"                # " Japan": the loss is taken here alone. Mind the space, as the tokenizer does
# id_column = "fact_id"

[update]
kind = "kfac"                      # see `finf init scan`
move_nats = 0.1

[rank]
top_k = 20                         # rows that the model puts first
lexical_k = 20                     # rows that BM25 puts first; give as many, or the two cannot be compared
# opponents_k = 5
by = "score"                       # nats that the whole row loses: a fact is a small part of a row, and the other
                                   # orders, which divide by the row's length, lose it; long rows: "mirror_ratio"

# [truth]                          # where it is known: MRR and recall, by the model, by BM25 and by both
# path = "truth.jsonl"             # query_id, and document_id or shard and row; or
# column = "facts"                 # a column of the corpus (values or lists): rows with the query's value are true
# query_column = "fact"            # the queries' column of such values; default: the same name
# recall_at = [1, 10]
"""

TEMPLATES = {
    "scan": SCAN,
    "attribute": ATTRIBUTE,
    "diffusion": DIFFUSION,
    "mislabel": MISLABEL,
    "memorize": MEMORIZE,
    "trace": TRACE,
}
