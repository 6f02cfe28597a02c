"""Tiny reward models as folders."""

import talker

MARK = "<s>"
TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"


def save_rewarder(folder, *, labels=1, template=TEMPLATE, head=True):
    """A tiny sequence classifier whose tokenizer adds a beginning mark, as its template does."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaForSequenceClassification

    tokenizer = talker.build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": MARK})
    mark = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{MARK} $A", special_tokens=[(MARK, mark)])
    tokenizer.chat_template = template
    config = talker.build_model().config
    config.num_labels, config.vocab_size = labels, len(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForSequenceClassification(config).float()
    if not head:
        model = talker.build_model()
        model.config.num_labels = 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
