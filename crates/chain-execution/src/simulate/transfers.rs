//! Who looks on while a call is simulated: its logs, with their places in the block, and transfers of coins among them.

use super::COIN;
use alloy_evm::Database;
use alloy_evm::eth::EthEvmContext;
use alloy_primitives::{Address, B256, Log, LogData, U256, b256};
use revm::Inspector;
use revm::context_interface::JournalTr;
use revm::interpreter::{CallInputs, CallOutcome, CallScheme, CreateInputs, CreateOutcome};

/// `Transfer(address,address,uint256)`, ERC-20's event.
const TRANSFER: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// The logs of a block's calls, one call at a time.
#[derive(Debug)]
pub(crate) struct CallLogs {
    transfers: bool,
    /// Accounts that every call finds warm.
    warm: Vec<Address>,
    /// The place of the next log; logs that are undone keep theirs.
    next: u64,
    /// Logs by frame, the outermost first.
    frames: Vec<Vec<(u64, Log)>>,
    done: Vec<(u64, Log)>,
}

impl CallLogs {
    pub(super) const fn new(transfers: bool, warm: Vec<Address>) -> Self {
        Self { transfers, warm, next: 0, frames: Vec::new(), done: Vec::new() }
    }

    pub(super) fn begin(&mut self) {
        self.frames.clear();
        self.done.clear();
    }

    pub(super) fn take(&mut self) -> Vec<(u64, Log)> {
        std::mem::take(&mut self.done)
    }

    /// A frame begins; before the outermost one the warm accounts are looked at.
    fn enter<DB: Database>(&mut self, context: &mut EthEvmContext<DB>) {
        if self.frames.is_empty() {
            for address in &self.warm {
                // What cannot be read here fails again where it is used.
                let _ = context.journaled_state.load_account(*address);
            }
        }
        self.frames.push(Vec::new());
    }

    fn push(&mut self, log: Log) {
        let place = self.next;
        self.next = self.next.saturating_add(1);
        if let Some(frame) = self.frames.last_mut() {
            frame.push((place, log));
        }
    }

    fn moved(&mut self, from: Address, to: Address, value: U256) {
        if self.transfers && !value.is_zero() {
            let topics = vec![TRANSFER, from.into_word(), to.into_word()];
            let data = value.to_be_bytes_vec().into();
            self.push(Log { address: COIN, data: LogData::new_unchecked(topics, data) });
        }
    }

    fn leave(&mut self, well: bool) {
        let Some(logs) = self.frames.pop().filter(|_| well) else { return };
        match self.frames.last_mut() {
            Some(outer) => outer.extend(logs),
            None => self.done = logs,
        }
    }
}

impl<DB: Database> Inspector<EthEvmContext<DB>> for CallLogs {
    fn log(&mut self, _: &mut EthEvmContext<DB>, log: Log) {
        self.push(log);
    }

    fn call(&mut self, context: &mut EthEvmContext<DB>, inputs: &mut CallInputs) -> Option<CallOutcome> {
        self.enter(context);
        let to = if inputs.scheme == CallScheme::CallCode { inputs.bytecode_address } else { inputs.target_address };
        self.moved(inputs.caller, to, inputs.transfer_value().unwrap_or_default());
        None
    }

    fn call_end(&mut self, _: &mut EthEvmContext<DB>, _: &CallInputs, outcome: &mut CallOutcome) {
        self.leave(outcome.result.result.is_ok());
    }

    fn create(&mut self, context: &mut EthEvmContext<DB>, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        self.enter(context);
        let nonce = context.journaled_state.load_account(inputs.caller()).map(|account| account.data.info.nonce);
        let to = inputs.created_address(nonce.unwrap_or_default());
        self.moved(inputs.caller(), to, inputs.value());
        None
    }

    fn create_end(&mut self, _: &mut EthEvmContext<DB>, _: &CreateInputs, outcome: &mut CreateOutcome) {
        self.leave(outcome.result.result.is_ok());
    }

    fn selfdestruct(&mut self, contract: Address, target: Address, value: U256) {
        self.moved(contract, target, value);
    }
}
