"""A MiniMind model inside `transformers`: no conversion, no trust_remote_code.

pip install transformers
python examples/inside_transformers.py runs/demo/sft/model
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

directory = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
print(type(model).__name__, f"{model.num_parameters():,} parameters")

messages = [{"role": "user", "content": "Who are you?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
with torch.inference_mode():
    model.generate(**prompt, max_new_tokens=40, do_sample=False, streamer=TextStreamer(tokenizer, skip_prompt=True))
