//! What settling costs, with the real contracts and the real call data: the table of MKT-43.

use trellis_contracts::typed::compact_signature;
use trellis_market_chain::{BatchTotals, SignedVoucher, WtrlContract};
use trellis_primitives::{Address, B256, BatchRoot, ChannelId, Wei, keccak256};

use super::world::{World, aggregator};
use crate::VOUCHERS_PER_TX_MAX;

/// The most gas a transaction may have.
const TX_GAS_MAX: u64 = 16_777_216;

struct Table {
    world: World,
    channels: Vec<ChannelId>,
}

impl Table {
    async fn new(channels: u64, per_payout: u64) -> Self {
        let world = World::new();
        let wallet = world.wallet(aggregator());
        let terms = world.terms().await;
        WtrlContract::new(terms.token).ensure_balance(&wallet, terms.bond).await.unwrap();
        world.settlement.register(&wallet, terms.token, terms.bond).await.unwrap();
        let mut opened = Vec::new();
        for n in 0..channels {
            opened.push({
                let payout = Address::from_word(keccak256((n / per_payout).to_be_bytes()));
                world.open(payout, keccak256(n.to_be_bytes()), Wei(1_000_000)).await
            });
        }
        Self { world, channels: opened }
    }

    /// Settles one voucher of each channel beside a root; gives all gas, and the most that one transaction took.
    async fn settle(&self, number: u64, cumulative: u128) -> (u64, u64) {
        let wallet = self.world.wallet(aggregator());
        let vouchers = self.channels.iter().map(|channel| {
            let voucher = self.world.voucher(*channel, cumulative);
            let signature: [u8; 65] = voucher.signature.as_ref().try_into().unwrap();
            let (r, vs) = compact_signature(&signature).unwrap();
            SignedVoucher { channelId: channel.0, cumulativeAmount: cumulative, r, vs }
        });
        let vouchers: Vec<_> = vouchers.collect();
        let fee_pool = self.world.terms().await.fee_pool;
        let epoch = self.world.settlement.current_epoch(self.world.client(), fee_pool).await.unwrap();
        let root = BatchRoot(B256::left_padding_from(&number.to_be_bytes()));
        let totals = BatchTotals { root, number, epoch, count: 1_000, sum: Wei(1) };
        let mut parts = vouchers.chunks(VOUCHERS_PER_TX_MAX);
        let first = parts.next().unwrap().to_vec();
        let mut used = vec![self.world.settlement.settle(&wallet, totals, first).await.unwrap().gas_used];
        for part in parts {
            used.push(self.world.settlement.settle_vouchers(&wallet, part.to_vec()).await.unwrap().gas_used);
        }
        (used.iter().sum(), *used.iter().max().unwrap())
    }
}

/// Prints the table. The first settlement writes each channel's figure and each payout account for the first time, so it is
/// the dearest; every later one is as the second. Neighbours with one payout account share a transfer.
// row: MKT-43
#[tokio::test]
async fn a_voucher_costs_what_the_table_of_gas_says_and_a_full_transaction_fits_its_bound() {
    for (channels, per_payout, later_max) in
        [(10u64, 4, 56_000), (40, 4, 30_000), (100, 4, 26_000), (400, 4, 24_000), (400, 1, 34_000), (1_000, 4, 24_000)]
    {
        let table = Table::new(channels, per_payout).await;
        let (first, largest) = table.settle(1, 10).await;
        let (second, _) = table.settle(2, 20).await;
        let each = second / channels;
        println!(
            "{channels:5} channels, {per_payout} to a payout account: first {first:9} gas, later {second:9}, {each:6} a voucher; \
             per receipt of 1,000 {:6}, of 100,000 {:4}",
            second / 1_000,
            second / 100_000,
        );
        assert!(largest < TX_GAS_MAX * 9 / 10, "{VOUCHERS_PER_TX_MAX} vouchers took {largest} gas");
        assert!(each < later_max, "{channels} channels: {each} gas a voucher, at most {later_max} so far");
        if channels == 400 && per_payout == 4 {
            assert!(second / 100_000 < 100, "100,000 receipts over 400 channels: {} gas each", second / 100_000);
        }
    }
}
