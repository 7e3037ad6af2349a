"""web3.py, unchanged: transfer, deploy, logs. Usage: web3_client.py RPC_URL PRIVATE_KEY ARTIFACT"""
import json
import sys
from web3 import Web3

rpc, key, artifact = sys.argv[1:]
web3 = Web3(Web3.HTTPProvider(rpc))
assert web3.is_connected() and web3.eth.chain_id == 97001, web3.eth.chain_id
account = web3.eth.account.from_key(key)


def send(transaction):
    filled = {"from": account.address, "nonce": web3.eth.get_transaction_count(account.address), **transaction}
    filled.setdefault("chainId", web3.eth.chain_id)
    tip = web3.eth.max_priority_fee
    filled["maxPriorityFeePerGas"] = tip
    filled["maxFeePerGas"] = 2 * web3.eth.get_block("latest")["baseFeePerGas"] + tip
    filled["gas"] = web3.eth.estimate_gas({k: v for k, v in filled.items() if k != "gas"})
    signed = account.sign_transaction(filled)
    receipt = web3.eth.wait_for_transaction_receipt(web3.eth.send_raw_transaction(signed.raw_transaction), timeout=40)
    assert receipt["status"] == 1, receipt
    return receipt


fresh = web3.eth.account.create().address
send({"to": fresh, "value": 12345, "data": "0x"})
assert web3.eth.get_balance(fresh) == 12345

with open(artifact) as file:
    token = json.load(file)
bytecode = token["bytecode"]
bytecode = bytecode["object"] if isinstance(bytecode, dict) else bytecode
receipt = send({"data": bytecode, "value": 0})
contract = web3.eth.contract(address=receipt["contractAddress"], abi=token["abi"])
deposit = contract.functions.deposit().build_transaction({"from": account.address, "value": 777, "gas": 500000})
receipt = send({"to": deposit["to"], "data": deposit["data"], "value": 777})
assert contract.functions.balanceOf(account.address).call() == 777
block = receipt["blockNumber"]
logs = contract.events.Transfer().get_logs(from_block=block, to_block=block)
assert [log["args"]["to"] for log in logs if log["args"]["to"] == account.address], logs
print("ok:", receipt["transactionHash"].hex())
