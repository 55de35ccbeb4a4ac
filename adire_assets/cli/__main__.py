"""`python -m adire_assets.cli`."""

from adire_assets.cli.main import main

main()
