//! Who sends a request, and how many requests that address may send.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZero,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::HeaderMap,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use poet_rounds::clock::Clock;
use tonic::Status;

use super::{error::ApiError, protocol::Protocol};

/// The maximum number of addresses to count at a time: 4 MB. If there are more, the idle ones are
/// forgotten, or else some of the others.
const MAX_NETWORKS: usize = 65_536;
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The connection that a request came over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// The address of the client's end.
    pub(super) address: IpAddr,
    /// The address of this end.
    pub(super) local: IpAddr,
}

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 address, which is what one
/// customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Network(IpAddr);

impl Network {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << 64);
                Ipv6Addr::from_bits(network).into()
            }
        })
    }
}

/// Reverse proxies, which are trusted to name the sender of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Returns whether this is the address of a proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the sender of a request that came from `peer`. Each proxy appends the address that
    /// it received the request from, so the sender is the last address that is no proxy's. Anything
    /// before it may be forged.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let forwarded = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for text in forwarded {
            if !self.contains(client) {
                break;
            }
            // None of our proxies wrote this, since it is no address.
            let Some(address) = parse_forwarded(text.trim()) else {
                break;
            };
            client = address;
        }
        client
    }
}

/// Parses an address as proxies write it: some of them add the port.
fn parse_forwarded(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>();
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

impl FromStr for TrustedProxies {
    type Err = &'static str;

    /// Parses networks or addresses separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = |text: &str| {
            let text = text.trim();
            let address = || {
                text.parse()
                    .map(|address: IpAddr| address.to_canonical().into())
            };
            text.parse().or_else(|_| address())
        };
        text.split(',')
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|_| "expected networks with commas between them, such as 10.0.0.0/8,::1")
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// How many requests an address may send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestRate {
    /// Requests per second in the long run. Above 0.
    pub per_second: f64,
    /// Requests at once.
    pub burst: NonZero<u32>,
}

/// Counts requests by address.
///
/// Stores one time per address: when its next request would be due if they came evenly. A request
/// advances it by `1 / rate`. If it is more than a burst ahead, the request is refused, and does
/// not count.
pub(crate) struct RateLimit {
    interval: Duration,
    /// How far ahead of the present the time of an address may be.
    tolerance: Duration,
    proxies: TrustedProxies,
    protocol: Protocol,
    clock: Arc<dyn Clock>,
    due: Mutex<HashMap<Network, Duration>>,
}

impl RateLimit {
    pub(crate) fn new(
        rate: RequestRate,
        proxies: TrustedProxies,
        protocol: Protocol,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / rate.per_second).unwrap_or(MAX_INTERVAL);
        let interval = interval.min(MAX_INTERVAL);
        Self {
            interval,
            tolerance: interval.saturating_mul(rate.burst.get() - 1),
            proxies,
            protocol,
            clock,
            due: Mutex::default(),
        }
    }

    /// Counts a request at this time. If it exceeds the limit, returns how long to wait for the next one.
    fn check(&self, network: Network, now: Duration) -> Result<(), Duration> {
        let mut table = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let due = table.get(&network).copied().unwrap_or(now).max(now);
        let ahead = due - now;
        if ahead > self.tolerance {
            return Err(ahead - self.tolerance);
        }
        if table.len() >= MAX_NETWORKS && !table.contains_key(&network) {
            table.retain(|_, due| *due > now);
            // All of them are active: this is an attack from many networks. New ones replace older
            // ones.
            let mut forgotten = table.len().saturating_sub(MAX_NETWORKS - MAX_NETWORKS / 4);
            table.retain(|_, _| {
                let keep = forgotten == 0;
                forgotten = forgotten.saturating_sub(1);
                keep
            });
        }
        table.insert(network, due + self.interval);
        Ok(())
    }

    fn refuse(&self, wait: Duration) -> Response {
        let error = ApiError::TooManyRequests {
            retry_after_seconds: wait.as_secs() + 1,
        };
        match self.protocol {
            Protocol::Http2 => Status::from(error).into_http::<Body>(),
            Protocol::Http1 | Protocol::Either => error.into_response(),
        }
    }

    /// Applies the limit to a router.
    pub(crate) fn layer(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::new(self), limit))
    }
}

/// The longest time that an address can have to wait for one request: a day.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

async fn limit(State(limit): State<Arc<RateLimit>>, request: Request, next: Next) -> Response {
    if let Some(peer) = request.extensions().get::<Peer>() {
        let client = limit.proxies.client(peer.address, request.headers());
        if let Err(wait) = limit.check(Network::of(client), limit.clock.monotonic()) {
            return limit.refuse(wait);
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use poet_rounds::clock::SystemClock;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn limit(per_second: f64, burst: u32) -> RateLimit {
        let burst = NonZero::new(burst).unwrap();
        let rate = RequestRate { per_second, burst };
        let clock = Arc::new(SystemClock);
        RateLimit::new(rate, TrustedProxies::default(), Protocol::Http1, clock)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limit = limit(10.0, 5);
        let start = Duration::from_secs(1000);
        let one = Network::of(address("192.0.2.1"));
        for _ in 0..5 {
            assert_eq!(limit.check(one, start), Ok(()));
        }
        assert_eq!(limit.check(one, start), Err(Duration::from_millis(100)));
        // Another address has its own limit.
        assert_eq!(
            limit.check(Network::of(address("192.0.2.2")), start),
            Ok(())
        );
        for tenth in 1..20 {
            let now = start + Duration::from_millis(100 * tenth);
            assert_eq!(limit.check(one, now), Ok(()));
            assert!(limit.check(one, now).is_err());
        }
        // After a pause, one burst and no more.
        let later = start + Duration::from_secs(60);
        let passed = (0..20).filter(|_| limit.check(one, later).is_ok()).count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn neighbours_of_ipv6_count_as_one() {
        let of = |text| Network::of(address(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8:0:0:ffff::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn the_table_is_bounded() {
        let limit = limit(1.0, 1);
        let now = Duration::ZERO;
        for number in 0..3 * MAX_NETWORKS as u128 {
            let address = IpAddr::from(Ipv6Addr::from_bits(number << 64));
            assert_eq!(limit.check(Network::of(address), now), Ok(()));
            assert!(limit.due.lock().unwrap().len() <= MAX_NETWORKS);
        }
    }

    #[test]
    fn extreme_rates() {
        let now = Duration::ZERO;
        let one = Network::of(address("192.0.2.1"));
        let slow = limit(f64::MIN_POSITIVE, u32::MAX);
        assert_eq!(slow.check(one, now), Ok(()));
        let fast = limit(f64::MAX, 1);
        for _ in 0..100 {
            assert_eq!(fast.check(one, now), Ok(()));
        }
    }

    #[test]
    fn only_proxies_are_believed() {
        let proxies: TrustedProxies = "10.0.0.0/8, 192.0.2.7,::1".parse().unwrap();
        let client = |peer, values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
            }
            proxies.client(address(peer), &headers).to_string()
        };
        assert_eq!(client("198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        assert_eq!(client("10.1.1.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(
            client("10.1.1.1", &["1.1.1.1, 203.0.113.9, 192.0.2.7"]),
            "203.0.113.9"
        );
        assert_eq!(
            client("::1", &["1.1.1.1", "203.0.113.9,10.2.2.2"]),
            "203.0.113.9"
        );
        assert_eq!(client("::ffff:10.1.1.1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(client("10.1.1.1", &["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(client("10.1.1.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client("10.1.1.1", &[]), "10.1.1.1");
        assert_eq!(client("10.1.1.1", &["203.0.113.9, unknown"]), "10.1.1.1");
        assert_eq!(client("10.1.1.1", &["10.3.3.3"]), "10.3.3.3");
        assert_eq!(proxies.to_string(), "10.0.0.0/8,192.0.2.7/32,::1/128");
        for bad in ["", "10.0.0.0/33", "proxy", "10.0.0.1,,"] {
            assert!(bad.parse::<TrustedProxies>().is_err(), "{bad}");
        }
    }
}
