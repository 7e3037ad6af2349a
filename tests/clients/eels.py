"""Ethereum's execution specification in Python as a second opinion: chains and blocks in as lines of JSON, what they come to out.

Nothing of Trellis is asked here. Where a Trellis chain decides otherwise than Ethereum, the rule is written again, in `header` and
`execute`: a floor under the base fee, prevRandao from the parent's hash, the section's root in the place of the beacon chain's, and
neither withdrawals nor requests nor blobs.
"""

import json
import sys
import threading
from collections import Counter
from functools import lru_cache
from importlib.metadata import version

from ethereum.crypto.hash import keccak256
from ethereum.exceptions import EthereumException
from ethereum.forks.osaka import fork, trie, vm
from ethereum.forks.osaka.blocks import Header
from ethereum.forks.osaka.bloom import logs_bloom
from ethereum.forks.osaka.fork_types import Account, Address
from ethereum.forks.osaka.requests import compute_requests_hash
from ethereum.forks.osaka.state import State, set_account, set_storage, state_root
from ethereum.forks.osaka.transactions import LegacyTransaction, decode_transaction
from ethereum.forks.osaka.trie import EMPTY_TRIE_ROOT, copy_trie, root, trie_get, trie_set
from ethereum.forks.osaka.vm import interpreter
from ethereum.forks.osaka.vm.instructions import Ops
from ethereum.forks.osaka.vm.precompiled_contracts.mapping import PRE_COMPILED_CONTRACTS
from ethereum.trace import OpStart, PrecompileEnd, PrecompileStart, TransactionEnd, set_evm_trace
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes, Bytes8, Bytes32
from ethereum_types.numeric import U64, U256, Uint

# A call stack of 1,024 frames is several of Python's for each.
RECURSION_MAX = 40_000
STACK_BYTES = 512 << 20
# Hashes that the BLOCKHASH instruction can see.
HASHES_MAX = 256
# Codes and hashed nodes that are remembered.
CODES_MAX, NODES_MAX = 4_096, 65_536

# Functions of their arguments and nothing else, which take a third of the time when they are called again for each frame and block.
interpreter.get_valid_jump_destinations = lru_cache(CODES_MAX)(interpreter.get_valid_jump_destinations)
trie.keccak256 = lru_cache(NODES_MAX)(trie.keccak256)


def data(text):
    return Bytes(bytes.fromhex(text.removeprefix("0x")))


def number(text):
    return int(text, 16)


def shown(value):
    return "0x" + bytes(value).hex()


def named(address):
    return "0x" + bytes(address).hex().lstrip("0")


class Seen:
    """What the transactions made the machine do, counted where it does it."""

    def __init__(self):
        self.ops, self.precompiles, self.ends = Counter(), Counter(), Counter()
        self.started = None
        self.error = None

    def __call__(self, evm, event, /, trace_memory=False, trace_stack=True, trace_return_data=False):
        if type(event) is OpStart:
            self.ops[event.op] += 1
        elif type(event) is PrecompileStart:
            self.started = event.address
            self.precompiles["tried " + named(event.address)] += 1
        elif type(event) is PrecompileEnd:
            self.precompiles["answered " + named(self.started)] += 1
        elif type(event) is TransactionEnd:
            self.error = type(event.error).__name__ if event.error else "Success"

    def ended(self):
        # A creation at an address that is taken never starts.
        self.ends[self.error or "AddressCollision"] += 1
        self.error = None

    def counts(self):
        ops = {op.name: count for op, count in self.ops.items()}
        return {"ops": ops, "precompiles": self.precompiles, "ends": self.ends}


class Chain:
    """A chain from its genesis on."""

    def __init__(self, asked):
        self.chain_id = U64(asked["chain_id"])
        self.floor = asked["base_fee_floor"]
        self.state = State()
        for account in asked["alloc"]:
            address = Address(data(account["address"]))
            whole = Account(Uint(account["nonce"]), U256(number(account["balance"])), data(account["code"]))
            set_account(self.state, address, whole)
            for slot, value in account["storage"]:
                set_storage(self.state, address, Bytes32(data(slot)), U256(number(value)))
        self.head = self.genesis(asked)
        self.hashes = [keccak256(rlp.encode(self.head))]
        self.pending = None

    def genesis(self, asked):
        return Header(
            parent_hash=Bytes32(bytes(32)),
            ommers_hash=fork.EMPTY_OMMER_HASH,
            coinbase=Address(bytes(20)),
            state_root=state_root(self.state),
            transactions_root=EMPTY_TRIE_ROOT,
            receipt_root=EMPTY_TRIE_ROOT,
            bloom=logs_bloom(()),
            difficulty=Uint(0),
            number=Uint(0),
            gas_limit=Uint(asked["gas_limit"]),
            gas_used=Uint(0),
            timestamp=U256(asked["timestamp"]),
            extra_data=Bytes(b""),
            prev_randao=keccak256(bytes(32)),
            nonce=Bytes8(bytes(8)),
            base_fee_per_gas=Uint(asked["base_fee"]),
            withdrawals_root=EMPTY_TRIE_ROOT,
            blob_gas_used=U64(0),
            excess_blob_gas=U64(0),
            parent_beacon_block_root=Bytes32(bytes(32)),
            requests_hash=compute_requests_hash([]),
        )

    def base_fee(self):
        head = self.head
        fee = fork.calculate_base_fee_per_gas(head.gas_limit, head.gas_limit, head.gas_used, head.base_fee_per_gas)
        return max(fee, Uint(self.floor))

    def header(self, asked, state, output):
        return Header(
            parent_hash=self.hashes[-1],
            ommers_hash=fork.EMPTY_OMMER_HASH,
            coinbase=Address(data(asked["beneficiary"])),
            state_root=state_root(state),
            transactions_root=root(output.transactions_trie),
            receipt_root=root(output.receipts_trie),
            bloom=logs_bloom(output.block_logs),
            difficulty=Uint(0),
            number=self.head.number + Uint(1),
            gas_limit=self.head.gas_limit,
            gas_used=output.block_gas_used,
            timestamp=U256(asked["timestamp"]),
            extra_data=data(asked["extra_data"]),
            prev_randao=keccak256(self.hashes[-1]),
            nonce=Bytes8(bytes(8)),
            base_fee_per_gas=self.base_fee(),
            withdrawals_root=EMPTY_TRIE_ROOT,
            blob_gas_used=U64(0),
            excess_blob_gas=U64(0),
            parent_beacon_block_root=Bytes32(data(asked["section_root"])),
            requests_hash=compute_requests_hash([]),
        )

    def environment(self, asked, state):
        return vm.BlockEnvironment(
            chain_id=self.chain_id,
            state=state,
            block_gas_limit=self.head.gas_limit,
            block_hashes=self.hashes,
            coinbase=Address(data(asked["beneficiary"])),
            number=self.head.number + Uint(1),
            base_fee_per_gas=self.base_fee(),
            time=U256(asked["timestamp"]),
            prev_randao=keccak256(self.hashes[-1]),
            excess_blob_gas=U64(0),
            parent_beacon_block_root=Bytes32(data(asked["section_root"])),
        )

    def execute(self, asked, state, seen):
        """The transactions on top of the head; those that may not be in the block are left out with the rule's name."""
        environment, output = self.environment(asked, state), vm.BlockOutput()
        system = fork.process_unchecked_system_transaction
        set_evm_trace(lambda *args, **kwargs: None)
        system(block_env=environment, target_address=fork.BEACON_ROOTS_ADDRESS, data=environment.parent_beacon_block_root)
        system(block_env=environment, target_address=fork.HISTORY_STORAGE_ADDRESS, data=environment.block_hashes[-1])
        set_evm_trace(seen)
        outcomes = []
        for raw in map(data, asked["transactions"]):
            index = Uint(len(output.receipt_keys))
            key = rlp.encode(index)
            try:
                tx = rlp.decode_to(LegacyTransaction, raw) if raw[0] >= 0xC0 else decode_transaction(raw)
                fork.process_transaction(environment, output, tx, index)
            except (EthereumException, rlp.DecodingError) as refusal:
                trie_set(output.transactions_trie, key, None)
                outcomes.append({"refused": type(refusal).__name__})
                continue
            seen.ended()
            receipt = trie_get(output.receipts_trie, key)
            outcomes.append({"receipt": shown(receipt if isinstance(receipt, bytes) else rlp.encode(receipt))})
        return outcomes, output

    def block(self, asked):
        """A block on top of the head, which stays the head until `keep`."""
        seen = Seen()
        state = State(copy_trie(self.state._main_trie), {k: copy_trie(t) for k, t in self.state._storage_tries.items()})
        outcomes, output = self.execute(asked, state, seen)
        header = self.header(asked, state, output)
        self.pending = (state, header)
        return {
            "outcomes": outcomes,
            "state_root": shown(header.state_root),
            "transactions_root": shown(header.transactions_root),
            "receipts_root": shown(header.receipt_root),
            "logs_bloom": shown(header.bloom),
            "gas_used": int(header.gas_used),
            "base_fee": int(header.base_fee_per_gas),
            "hash": shown(keccak256(rlp.encode(header))),
            "seen": seen.counts(),
        }

    def keep(self):
        self.state, self.head = self.pending
        self.hashes = [*self.hashes, keccak256(rlp.encode(self.head))][-HASHES_MAX:]
        return {}


def about():
    return {
        "version": version("ethereum-execution"),
        "fork": "osaka",
        "ops": [op.name for op in Ops],
        "precompiles": [named(address) for address in PRE_COMPILED_CONTRACTS],
    }


def serve():
    chain = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "genesis" in asked:
            chain = Chain(asked["genesis"])
            answer = {"state_root": shown(chain.head.state_root), "hash": shown(chain.hashes[-1])}
        elif "block" in asked:
            answer = chain.block(asked["block"])
        elif "keep" in asked:
            answer = chain.keep()
        elif "about" in asked:
            answer = about()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.setrecursionlimit(RECURSION_MAX)
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
