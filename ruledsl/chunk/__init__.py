"""Floor 3: C tokens at once, as tensor algebra, and its gradient.

    form            TokenForm -> Program         lower (expressions), recurrence (states), gates (decays),
                                                 coupled (states mapped jointly), mixing (their small matrices),
                                                 mixed_reads (sums of reads), systems (what a solution is made of)
    differentiate   Program -> Program           derivatives: one row for each operation
    simplify        Program -> Program           lower_solves, swap_contractions
    verify, show    Program -> itself, text

`build` makes nodes, with `shapes` (what fits), `arithmetic` and `identities` (what equals what) and `dims` (sizes in
one spelling). The interpreter, the oracle of every kernel, is `runtime.interpret`.

A frozen state is one of the program's: a copy that comes along, replaced where these tokens hold the first of the rule's own
chunk. Chunks are then at the rule's own places, which is the caller's affair.

Where this floor departs from the plan: decays of the log route are plain running sums here (pairs of floats are a
matter of emission); the inverse is always taken of the gated matrix; writes that read a state whose rows decay
are refused, because every row would need a solve of its own.
"""
