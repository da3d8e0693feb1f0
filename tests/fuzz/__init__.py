"""A rule file is hostile input: a coverage-guided fuzzer of everything between a text and generated Python.

walk       text -> what every stage says and writes: checker, verdict, torch text, Triton text, standalone files
generated  generated Python -> what in it can have come from the rule and must not
oracle     bytes -> how far they came, or a finding: a crash, a hang, too much memory, unsafe text
mutate     texts -> texts that are nearly rules
__main__   `python -m fuzz`, with atheris; `make fuzz`
seeds/     texts that reach what no other reaches, and every input that was a finding once
"""
