"""A page in a headless browser, by the command line alone: what it became, how it looks, what it complained about."""

from __future__ import annotations

import re
import shutil
import subprocess

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def browse(page, *options, width=1200, height=900, folder, query=""):
    """Run the browser on a page and return (standard output, standard error)."""
    command = [
        find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={folder}", f"--window-size={width},{height}", "--virtual-time-budget=5000",
        "--proxy-server=127.0.0.1:9", *options, page.as_uri() + query,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def console(stderr):
    """What the page wrote to the console: errors and refused requests too."""
    return re.findall(r"CONSOLE[^\n]*", stderr)
