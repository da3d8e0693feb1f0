"""Floor 1: from text to a rule in which every name, shape and product is decided.

    parse     Source -> syntax.Rule      scan, refuse, blame: what is told about a text that is none
    check     syntax.Rule -> typed.Rule  declare, infer, solve, lower
    unroll    typed.Rule at family sizes -> straight-line typed.Rule
    unparse, show, render, catalogue     the way back to people
"""
