"""The tasks of fine-tuning by name: what `newleaf finetune --help` shows without waiting for PyTorch."""

TASKS = {
    "text": "go on training on documents",
    "classify": "one text, a label (or several)",
    "pair": "two texts, a label: entailment, question and answer",
    "similarity": "two texts in either order, a label",
    "choice": "a text and several continuations, which one is right",
    "chat": "conversations, of which the assistant's words are learned",
    "preference": "pairs of answers of which one is better: DPO, IPO, ORPO",
    "distil": "what a bigger model would have said",
}
