#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Distrusts who opens /etc/shadow, and nobody else. Run it with

    tsem-bpf run --external --enforce --tma exec:examples/distrust-shadow.py -o events.json -- sh
"""
import json
import sys

for line in sys.stdin:
    record = json.loads(line)
    if record["export"]["type"] != "event":
        continue  # the aggregate, and what does not wait for a verdict
    event = record["event"]
    verdict = "trusted"
    if event["type"] == "file_open" and record["file_open"]["file"]["path"]["pathname"] == "/etc/shadow":
        verdict = "untrusted"
        print("distrust-shadow:", event["process"], "opens /etc/shadow", file=sys.stderr, flush=True)
    print(f"{verdict} pid={event['pid']} tnum={event['tnum']}", flush=True)
