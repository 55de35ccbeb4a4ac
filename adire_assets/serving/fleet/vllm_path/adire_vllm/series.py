"""What an engine tells Prometheus of each release; its own series know the base alone."""

from prometheus_client import Counter, Histogram

LABELS = ("model", "release")
SECONDS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300),
)

REQUESTS = Counter(
    "adire_llm_requests",
    "Requests by how they ended: answered, refused (the client's mistake), failed before an answer "
    "began, broken in the middle of one, or given up by the client.",
    (*LABELS, "outcome"),
)
FIRST_TOKEN = Histogram(
    "adire_llm_first_token_seconds",
    "From a request to the first piece of a streamed answer.",
    LABELS,
    buckets=SECONDS,
)
BETWEEN_TOKENS = Histogram(
    "adire_llm_inter_token_seconds",
    "From one piece of a streamed answer to the next.",
    LABELS,
    buckets=(0.001, 0.002, *SECONDS),
)
WHOLE = Histogram(
    "adire_llm_request_seconds", "From a request to the end of its answer.", LABELS, buckets=SECONDS
)
CUT_OFF = Counter(
    "adire_llm_answers_cut_off", "Answers that ended because they were as long as allowed.", LABELS
)
MODERATED = Counter(
    "adire_llm_moderated",
    "Prompts and answers that hold a word of the release's list.",
    (*LABELS, "side"),
)
