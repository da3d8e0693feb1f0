"""Floor 2: is the per-token map associative, why, how stable, at what price.

    judge       typed.Rule -> Verdict
    strata      which states depend on each other; earlier strata are inputs to later ones
    calculus    grad(loss, S) by matrix calculus
    linear      an expression as a sum of terms  coefficient * factors S factors, or what stops it from being one
    sides       the classes of the factors left and right of the state; classify: the kind of a stratum
    normal      sub-steps  S <- diag S diag + sum_j z_j key_j^T;  readout: outputs over linear reads of the states
    reparam/    changes of variable, one recogniser each
    ranges      intervals from promises; logarithm: where log of a decay is safe
    stability, norms, witness, price, transition, text

Scalar coefficients are compared as sums of monomials (`scalars`), not through sympy as first planned: importing sympy
alone took 1 s of the 2 s that `check` has, and the questions asked (equal? common factor?) are about monomials. The
tests hold `scalars` against sympy.
"""
