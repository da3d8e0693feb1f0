"""The command line: one small file per command, `app` puts them together.

Nothing heavy is imported when a module of this package is: a command imports what it needs when it runs, so that
`ruledsl check` never loads torch.
"""
