"""Floor 2: is the per-token map associative, why, how stable, at what price.

    judge       typed.Rule -> Verdict
    strata      which states depend on each other; earlier strata are inputs to later ones
    calculus    grad(loss, S) by matrix calculus
    linear      an expression as a sum of terms  coefficient * factors S factors, or what stops it from being one
    sides       the classes of the factors left and right of the state; classify: the kind of a stratum
    normal      sub-steps  S <- diag S diag + sum_j z_j key_j^T;  coupled: states that depend on each
                other, every version over the states as the token began;  readout: outputs over linear reads of the states
    joined      strata whose states are added to one another; positive: may a system of states be solved by conjugate gradients;
                conditions: products of conditions that are 0;  circles: who takes from whom
    precision   rules that compute in float64
    reparam/    changes of variable, one recogniser each
    gauge       states that cancel from those they scale: degrees in exp of a state
    ranges      intervals from promises; logarithm: where log of a decay is safe
    explain/    laws, chunk form, adjoint, loss, counter-example and remedies in words and formulas; dated: names with tokens
    stability   a bound on a token's norm (norms, coupled_norms), how long a write lasts (horizon), or tokens that make the
                state grow (witness, on samples and token_matrix)
    hidden      lets that read their own past, as the states that they are
    price, amounts, transition, text, gate_notes, dense_blame, through

Scalar coefficients are compared as sums of monomials (`scalars`), not through sympy as first planned: importing sympy
alone took 1 s of the 2 s that `check` has, and the questions asked (equal? common factor?) are about monomials. The
tests hold `scalars` against sympy.
"""
