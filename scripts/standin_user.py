#!/usr/bin/env python
"""A chat endpoint without a language model: it plays the user of the scenario `simulated` by rule, in three wordings a move.

    python scripts/standin_user.py --port 8000

It was used for the numbers of `simulated` in docs/results.md, and shows what a language model is asked for.
"""

import argparse
import json
import random
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RIGHT = ("You are right.", "Yes, right.", "That is right!")
WRONG = ("That was wrong.", "No, wrong.", "Wrong, I am afraid.")
TELLS = ("Listen: {}", "You know, {}", "Note this: {}", "{}")
ASKS = ("Which {} do I have?", "So what is my {}?", "Can you tell me my {}?")


def words(content: str, seed: int) -> str:
    """What the user says.

    Args:
        content: The request's last message: JSON whose `now` lists what the user is to say.
        seed: Chooses the wording.
    """
    draws, said = random.Random(seed), []
    for wanted in json.JSONDecoder().raw_decode(content)[0]["now"]:
        plain = wanted.replace('"', "")
        if plain.startswith("Say"):
            said.append(draws.choice(RIGHT if "right" in plain else WRONG))
        elif plain.startswith("Tell"):
            said.append(draws.choice(TELLS).format(plain.partition(": ")[2]))
        else:
            said.append(draws.choice(ASKS).format(plain.split("what your ")[1].split()[0]))
    return " ".join(said)


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions."""

    def do_POST(self) -> None:
        """One completion."""
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = words(body["messages"][1]["content"], body.get("seed", 0))
        reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: thousands of requests come."""


def main() -> None:
    """Reads the command line and serves until it is stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    port: int = parser.parse_args().port
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        sys.exit(f"Error: port {port} cannot be served ({error}): give another with --port, or 0 for any that is free.")
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}/v1\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
