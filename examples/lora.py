"""LoRA by `peft`, with replay: low-rank adapters of a text encoder learn intents in two sessions.

python examples/lora.py ENCODER    (the Hub id or folder of a BERT-like encoder; by default the demo's)
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

from memreplay import ClassBalanced, Ragged, ReplayCrossEntropy, ReplayMemory, Reservoir, Store
from memreplay.integrations.transformers import ReplayCallback
from memreplay.nlp.bundled import bundled_encoder, intents

SETTINGS = {
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 16,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
}


def run(encoder: str, remembered: int, steps: int = 70) -> tuple[float, float]:
    """Accuracy on the intents of the first session and on those of the second, after both were learned."""
    set_seed(0)
    data = intents()
    label = data.labels
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    texts = tokenizer(data.texts)["input_ids"]
    test, first = torch.arange(len(label)) % 3 == 0, label < len(data.classes) // 2

    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(data.classes))
    lora = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(model, lora)  # the adapters and the head are trained, nothing else

    store = Store(remembered, keep=ClassBalanced(Reservoir()), columns={"input_ids": Ragged()}) if remembered else None
    memory = ReplayMemory(store, mix=ReplayCrossEntropy(), replay=16)
    args = TrainingArguments("unused", max_steps=steps, use_cpu=True, **SETTINGS)
    for session in (first, ~first):
        rows = [{"input_ids": texts[i], "labels": label[i]} for i in torch.nonzero(session & ~test).flatten()]
        callback = ReplayCallback(memory, remember=["input_ids", "label"])
        Trainer(model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[callback]).train()

    batch = tokenizer.pad({"input_ids": texts}, return_tensors="pt")
    with torch.no_grad():
        right = (model.eval()(**batch).logits.argmax(1) == label).float()
    return right[first & test].mean().item(), right[~first & test].mean().item()


if __name__ == "__main__":
    encoder = sys.argv[1] if len(sys.argv) > 1 else bundled_encoder()
    for remembered in (0, 100):
        old, new = run(encoder, remembered)
        print(f"{remembered:>3} texts remembered: {old:.1%} of the first intents right, {new:.1%} of the others")
