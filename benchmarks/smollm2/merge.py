"""Write a model with its adapter merged in: python benchmarks/smollm2/merge.py MODEL ADAPTER OUT."""

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model, adapter, out = sys.argv[1:]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
