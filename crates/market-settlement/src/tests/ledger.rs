//! The auditor over two journals and the chain.

use trellis_market_journal::{
    Increment, JobAborted, JobOpened, Journal, JournalConfig, JournalReader, ReceiptKept, Record, Side,
};
use trellis_primitives::{B256, Bytes, ChannelId, JobId, Wei};

use super::tower::{note_channel, received};
use super::world::{World, gateway, provider};
use crate::{AuditReport, LedgerSide, WatchTower, audit_ledger};

struct Pair {
    gateway: Journal,
    provider: Journal,
}

fn job(n: u64) -> JobId {
    JobId(B256::left_padding_from(&n.to_be_bytes()))
}

impl Pair {
    async fn new(world: &World, channels: &[ChannelId]) -> Self {
        let (gateway, provider) = (world.journal("gateway").0, world.journal("provider").0);
        for channel in channels {
            note_channel(world, &gateway, *channel, Side::Payer, Wei(1_000)).await;
            note_channel(world, &provider, *channel, Side::Payee, Wei(1_000)).await;
        }
        Self { gateway, provider }
    }

    async fn both(&self, record: Record) {
        self.gateway.append(record.clone()).await.unwrap();
        self.provider.append(record).await.unwrap();
    }

    /// A job that both sides signed, its voucher included.
    async fn job(&self, world: &World, channel: ChannelId, n: u64, cost: u128, cumulative: u128) {
        let max_cost = Wei(cost + 50);
        let peer = B256::repeat_byte(1);
        self.both(Record::JobOpened(JobOpened { job: job(n), channel, peer, max_cost, payload: Bytes::new() })).await;
        self.pay(world, channel, n, cost, cumulative, true).await;
        let kept = ReceiptKept {
            job: job(n),
            channel,
            sequence: n,
            hash: B256::left_padding_from(&(n + 1_000).to_be_bytes()),
            cost: Wei(cost),
            written_off: Wei(0),
            payload: Bytes::new(),
        };
        self.both(Record::JobReceipt(kept.clone())).await;
        self.both(Record::JobComplete(kept)).await;
    }

    async fn pay(&self, world: &World, channel: ChannelId, n: u64, amount: u128, cumulative: u128, arrives: bool) {
        let increments = vec![Increment { job: job(n), amount: Wei(amount) }];
        let voucher = received(&world.voucher(channel, cumulative), increments);
        self.gateway.append(Record::VoucherSent(voucher.clone())).await.unwrap();
        if arrives {
            self.provider.append(Record::VoucherReceived(voucher)).await.unwrap();
        }
    }

    async fn audit(&self, world: &World) -> AuditReport {
        // As the command does it: beside the running writers.
        let open = |name: &str| JournalReader::open(&JournalConfig::new(world.folder.path().join(name))).unwrap();
        let (gateway, provider) = (open("gateway"), open("provider"));
        let sides = [
            LedgerSide { name: "gateway".into(), index: gateway.index() },
            LedgerSide { name: "provider".into(), index: provider.index() },
        ];
        audit_ledger(&sides, world.client(), &world.contracts).await.unwrap()
    }
}

// row: OPS-06, MKT-41
#[tokio::test]
async fn after_payments_through_both_doors_and_a_close_everything_adds_up_to_the_wei() {
    let world = World::with_fee(100);
    let (one, two) = (world.open_channel(1, Wei(1_000)).await, world.open_channel(2, Wei(1_000)).await);
    let pair = Pair::new(&world, &[one, two]).await;
    pair.job(&world, one, 1, 250, 250).await;
    pair.job(&world, one, 2, 37, 287).await;
    pair.job(&world, two, 3, 999, 999).await;
    let tower = WatchTower::new(world.wallet(provider()), &world.contracts, pair.provider.clone());
    tower.redeem(one, Wei(1)).await.unwrap();
    let (settling, _journal) = world.aggregator(|_| {}).await;
    settling.submit(&[], &[world.voucher(one, 287), world.voucher(two, 999)]).await;
    world.advance_s(3);
    settling.tick().await.unwrap();
    let payee = world.wallet(provider());
    world.channels.close_by_payee(&payee, two, Wei::ZERO, Bytes::new()).await.unwrap();
    tower.tick().await.unwrap();

    let report = pair.audit(&world).await;
    assert!(report.agrees, "{:#?}", report.faults);
    assert_eq!((report.complete_jobs, report.half_signed.len()), (3, 0));
    let totals = &report.totals;
    // 1 % of each payment, rounded down.
    assert_eq!((totals.deposits, totals.fees), (Wei(2_000), Wei(2 + 9)));
    assert_eq!((totals.paid, totals.returned), (Wei(287 + 999 - 11), Wei(1)));
    assert_eq!((totals.locked, totals.contract_balance), (Wei(713), Wei(713)));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["agrees"], true);
    assert_eq!(json["totals"]["deposits"], "2000");
}

// row: OPS-06
#[tokio::test]
async fn half_signed_jobs_are_listed_with_a_bound_that_explains_a_lost_voucher() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(1_000)).await;
    let pair = Pair::new(&world, &[channel]).await;
    pair.job(&world, channel, 1, 250, 250).await;
    let (peer, max_cost) = (B256::repeat_byte(1), Wei(100));
    let opened = JobOpened { job: job(2), channel, peer, max_cost, payload: Bytes::new() };
    pair.both(Record::JobOpened(opened)).await;
    pair.pay(&world, channel, 2, 10, 260, true).await;
    // The provider died; this voucher was signed and stored, and never arrived.
    pair.pay(&world, channel, 2, 15, 275, false).await;
    for (journal, signed) in [(&pair.gateway, 25), (&pair.provider, 10)] {
        let aborted = JobAborted {
            job: job(2),
            channel,
            metered: Wei(30),
            signed: Wei(signed),
            written_off: Wei(5),
            bound: Wei(20),
            reason: "connection lost".into(),
        };
        journal.append(Record::JobAborted(aborted)).await.unwrap();
    }
    let report = pair.audit(&world).await;
    assert!(report.agrees, "{:#?}", report.faults);
    let listed: Vec<_> = report.half_signed.iter().map(|h| (h.side.as_str(), h.phase, h.bound)).collect();
    assert_eq!(listed, [("gateway", "aborted", Wei(20)), ("provider", "aborted", Wei(20))]);
}

// row: OPS-06
#[tokio::test]
async fn every_way_in_which_ledgers_can_disagree_is_a_fault() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(1_000)).await;
    let what = |report: &AuditReport| report.faults.iter().map(|fault| fault.what).collect::<Vec<_>>();

    // A voucher that arrived although nobody signed it, and costs beyond it.
    let pair = Pair::new(&world, &[channel]).await;
    pair.job(&world, channel, 1, 250, 250).await;
    pair.provider.append(Record::VoucherReceived(received(&world.voucher(channel, 300), Vec::new()))).await.unwrap();
    let report = pair.audit(&world).await;
    assert!(!report.agrees);
    let faults = what(&report);
    assert!(faults.contains(&"increments add up to the highest voucher"), "{faults:?}");
    assert!(faults.contains(&"the payee holds nothing that the payer did not sign"), "{faults:?}");

    // A receipt that costs more than was signed for it.
    let mut kept = ReceiptKept {
        job: job(2),
        channel,
        sequence: 2,
        hash: B256::repeat_byte(9),
        cost: Wei(40),
        written_off: Wei(0),
        payload: Bytes::new(),
    };
    pair.gateway.append(Record::JobComplete(kept.clone())).await.unwrap();
    let faults = what(&pair.audit(&world).await);
    assert!(faults.contains(&"a job's cost is what was signed for it"), "{faults:?}");
    assert!(faults.contains(&"costs add up to the increments"), "{faults:?}");

    // Two receipts for one job.
    kept.cost = Wei(41);
    kept.hash = B256::repeat_byte(10);
    pair.provider.append(Record::JobComplete(kept)).await.unwrap();
    let faults = what(&pair.audit(&world).await);
    assert!(faults.contains(&"both sides have the same receipt"), "{faults:?}");

    // A voucher on a channel that nobody opened.
    let unknown = world.voucher(ChannelId(B256::repeat_byte(0x66)), 5);
    pair.provider.append(Record::VoucherReceived(received(&unknown, Vec::new()))).await.unwrap();
    let faults = what(&pair.audit(&world).await);
    assert!(faults.contains(&"a channel with vouchers was opened"), "{faults:?}");

    // More paid than any voucher here promises.
    let voucher = world.voucher(channel, 800);
    let wallet = world.wallet(gateway());
    world.channels.redeem(&wallet, channel, voucher.cumulative, voucher.signature).await.unwrap();
    let faults = what(&pair.audit(&world).await);
    assert!(faults.contains(&"paid is at most the highest voucher"), "{faults:?}");
}
