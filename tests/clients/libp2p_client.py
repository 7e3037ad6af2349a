"""py-libp2p, unchanged, over QUIC. Usage: python libp2p_client.py ADDRESS

Connects, identifies, pings, prints what it saw as JSON, and stays until its standard input closes; a dial that fails is
{"refused": ...}, with what the peer said where it said something.
"""

import json
import logging
import sys

import multiaddr
import trio
from libp2p import new_host
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY, parse_identify_response
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils.varint import read_length_prefixed_protobuf

ANSWER_SECONDS_MAX = 40
# The listener closes its half of identify's stream as soon as it has answered. py-libp2p 0.8.1 drops the answer where it
# sees that first, although only its own half is concerned.
IDENTIFY_ATTEMPTS_MAX = 20
ENDED = "QUIC connection terminated: "


class Heard(logging.Handler):
    """Why the peer ended the connection: py-libp2p 0.8.1 logs it, and goes on waiting for the handshake to time out."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.reason = None

    def emit(self, record):
        text = record.getMessage()
        if text.startswith(ENDED):
            self.reason = text.removeprefix(ENDED)

    async def wait(self):
        while self.reason is None:
            await trio.sleep(0.05)


def heard_from(logger):
    heard = Heard()
    logging.getLogger(logger).setLevel(logging.DEBUG)
    logging.getLogger(logger).addHandler(heard)
    return heard


async def refusal(host, peer, heard):
    """Why the dial failed; None where it did not."""
    failed = "no answer"
    with trio.move_on_after(ANSWER_SECONDS_MAX):
        async with trio.open_nursery() as nursery:

            async def told():
                await heard.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(told)
            try:
                await host.connect(peer)
                failed = None
            except Exception as error:
                failed = f"{type(error).__name__}: {error}"
            nursery.cancel_scope.cancel()
    return heard.reason or failed


async def identify(host, peer):
    for attempt in range(1, IDENTIFY_ATTEMPTS_MAX + 1):
        try:
            stream = await host.new_stream(peer, [IDENTIFY])
            answer = await read_length_prefixed_protobuf(stream, use_varint_format=True)
            return attempt, parse_identify_response(answer)
        except Exception as error:
            last = error
    raise last


async def talk(host, peer):
    attempts, answer = await identify(host, peer)
    return {
        "own": str(host.get_id()),
        "peer": str(peer),
        "agent": answer.agent_version,
        "protocol": answer.protocol_version,
        "protocols": list(answer.protocols),
        "observed": str(multiaddr.Multiaddr(answer.observed_addr)),
        "attempts": attempts,
        "ping_ms": (await PingService(host).ping(peer))[0],
    }


async def main(address):
    heard = heard_from("libp2p.transport.quic.connection")
    host = new_host(enable_quic=True)
    peer = info_from_p2p_addr(multiaddr.Multiaddr(address))
    async with host.run(listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")]):
        refused = await refusal(host, peer, heard)
        if refused is not None:
            print(json.dumps({"refused": refused}), flush=True)
            return
        with trio.fail_after(ANSWER_SECONDS_MAX):
            seen = await talk(host, peer.peer_id)
        print(json.dumps(seen), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


trio.run(main, sys.argv[1])
