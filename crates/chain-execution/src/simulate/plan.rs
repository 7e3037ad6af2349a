//! Which blocks a simulation has: numbers and times that rise, gaps filled with empty blocks.

use super::{SIMULATED_BLOCKS_MAX, SimulateError, SimulatedBlockRequest};
use alloy_primitives::U256;
use std::borrow::Cow;
use trellis_primitives::Header;

/// Seconds from one simulated block to the next, where nothing else is asked for.
const BLOCK_TIME_S: u64 = 12;

/// A block with its place.
#[derive(Debug)]
pub(super) struct PlannedBlock<'a> {
    pub(super) number: u64,
    pub(super) time_s: u64,
    pub(super) request: Cow<'a, SimulatedBlockRequest>,
}

pub(super) fn plan<'a>(
    base: &Header,
    blocks: &'a [SimulatedBlockRequest],
) -> Result<Vec<PlannedBlock<'a>>, SimulateError> {
    let last_allowed = base.number.saturating_add(SIMULATED_BLOCKS_MAX);
    let (mut number, mut time_s) = (base.number, base.timestamp);
    let mut planned = Vec::new();
    for block in blocks {
        let wanted = block.overrides.number.unwrap_or_else(|| U256::from(number.saturating_add(1)));
        if wanted <= U256::from(number) {
            return Err(SimulateError::Number { found: wanted, before: number });
        }
        let wanted = u64::try_from(wanted).ok().filter(|wanted| *wanted <= last_allowed);
        let wanted = wanted.ok_or(SimulateError::Blocks)?;
        for gap in number.saturating_add(1)..wanted {
            time_s = time_s.saturating_add(BLOCK_TIME_S);
            planned.push(PlannedBlock { number: gap, time_s, request: Cow::Owned(SimulatedBlockRequest::default()) });
        }
        number = wanted;
        let found = block.overrides.time.unwrap_or_else(|| time_s.saturating_add(BLOCK_TIME_S));
        if found <= time_s {
            return Err(SimulateError::Time { found, before: time_s });
        }
        time_s = found;
        planned.push(PlannedBlock { number, time_s, request: Cow::Borrowed(block) });
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_rpc_types::BlockOverrides;

    fn asked(number: Option<u64>, time: Option<u64>) -> SimulatedBlockRequest {
        let overrides = BlockOverrides { number: number.map(U256::from), time, ..BlockOverrides::default() };
        SimulatedBlockRequest { overrides, ..SimulatedBlockRequest::default() }
    }

    #[test]
    fn gaps_are_filled_and_nothing_goes_back() {
        let base = Header { number: 10, timestamp: 100, ..Header::default() };
        let blocks = [asked(Some(13), None), asked(None, Some(140))];
        let planned = plan(&base, &blocks).unwrap();
        let places: Vec<_> = planned.iter().map(|block| (block.number, block.time_s)).collect();
        assert_eq!(places, [(11, 112), (12, 124), (13, 136), (14, 140)]);
        let refused = |blocks: &[SimulatedBlockRequest]| plan(&base, blocks).unwrap_err().to_string();
        assert_eq!(refused(&[asked(Some(10), None)]), "block numbers must be in order: 10 <= 10");
        assert_eq!(refused(&[asked(Some(12), Some(112))]), "block timestamps must be in order: 112 <= 112");
        assert_eq!(refused(&[asked(Some(267), None)]), "too many blocks");
        assert!(plan(&base, &[asked(Some(266), None)]).is_ok());
        assert_eq!(refused(&[asked(Some(u64::MAX), None)]), "too many blocks");
    }
}
