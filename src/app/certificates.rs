//! The certificates that this process shows: until when they are good, and whether their files can be used.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::core::time::Timestamp;

/// From when until when; `None`: there is none yet.
type Validity = Option<(Timestamp, Timestamp)>;

/// One place where certificates are shown.
pub(super) struct Place {
    /// `listener`, `upstream` or `hub`.
    pub(super) kind: &'static str,
    /// Its name.
    pub(super) name: Arc<str>,
    /// Of the certificate that ends first.
    pub(super) validity: Box<dyn Fn() -> Validity + Send + Sync>,
    /// Whether its files are others than those in use, and cannot be used.
    pub(super) refused: Box<dyn Fn() -> bool + Send + Sync>,
}

/// All of them.
pub(super) struct Certificates {
    expiry: GaugeVec,
    refused: IntGaugeVec,
    places: Mutex<Vec<(Place, Gauge, IntGauge)>>,
    warned: Mutex<HashSet<(usize, Timestamp)>>,
}

impl Certificates {
    /// Registers the families.
    pub(super) fn register(registry: &Registry, places: Vec<Place>) -> Result<Self, prometheus::Error> {
        let labels = ["use", "name"];
        let expiry = GaugeVec::new(
            Opts::new(
                "portreeve_certificate_expiry_timestamp_seconds",
                "When the certificate ends that is shown and ends first, in Unix time; +Inf: there is none yet.",
            ),
            &labels,
        )?;
        let refused = IntGaugeVec::new(
            Opts::new(
                "portreeve_certificate_files_refused",
                "1 while the files are others than those in use, and cannot be used.",
            ),
            &labels,
        )?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let certificates = Self { expiry, refused, places: Mutex::default(), warned: Mutex::default() };
        certificates.show(places);
        Ok(certificates)
    }

    /// Goes on with these places, and no others.
    pub(super) fn show(&self, places: Vec<Place>) {
        let mut held = self.places.lock();
        self.expiry.reset();
        self.refused.reset();
        let with_gauges = |place: Place| {
            let labels = [place.kind, &*place.name];
            let gauges = (self.expiry.with_label_values(&labels), self.refused.with_label_values(&labels));
            (place, gauges.0, gauges.1)
        };
        *held = places.into_iter().map(with_gauges).collect();
    }

    /// Brings every gauge up to date.
    pub(super) fn refresh(&self) {
        for (place, expiry, refused) in &*self.places.lock() {
            let seconds = |ends: Timestamp| {
                // A day is exact in far more than the years that certificates have.
                std::time::Duration::from_micros(u64::try_from(ends.as_micros()).unwrap_or(0)).as_secs_f64()
            };
            expiry.set((place.validity)().map_or(f64::INFINITY, |(_, ends)| seconds(ends)));
            refused.set(i64::from((place.refused)()));
        }
    }

    /// Warns, once for each certificate, of those with less than a third of their life before them.
    pub(super) fn warn(&self, now: Timestamp) {
        for (index, (place, ..)) in self.places.lock().iter().enumerate() {
            let Some((begins, ends)) = (place.validity)() else { continue };
            if is_near_end((begins, ends), now) && self.warned.lock().insert((index, ends)) {
                let left_s = ends.since(now).as_secs();
                let (kind, name) = (place.kind, &*place.name);
                tracing::warn!(
                    kind,
                    name,
                    left_s,
                    "a certificate has less than a third of its life before it"
                );
            }
        }
    }
}

fn is_near_end((begins, ends): (Timestamp, Timestamp), now: Timestamp) -> bool {
    ends.since(now) < ends.since(begins) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_is_the_bound() {
        let at = Timestamp::from_seconds;
        for (now, near) in [(0, false), (200, false), (201, true), (400, true)] {
            assert_eq!(is_near_end((at(0), at(300)), at(now)), near, "{now}");
        }
    }

    #[test]
    fn each_place_has_its_series() {
        let registry = Registry::new();
        let place = |kind, validity: Validity, refused: bool| Place {
            kind,
            name: "inbound".into(),
            validity: Box::new(move || validity),
            refused: Box::new(move || refused),
        };
        let ends = Timestamp::from_seconds(1_795_348_800);
        let places = vec![place("listener", Some((ends, ends)), true), place("hub", None, false)];
        let certificates = Certificates::register(&registry, places).unwrap();
        certificates.refresh();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "portreeve_certificate_expiry_timestamp_seconds{name=\"inbound\",use=\"listener\"} 1795348800\n",
            "portreeve_certificate_expiry_timestamp_seconds{name=\"inbound\",use=\"hub\"} inf\n",
            "portreeve_certificate_files_refused{name=\"inbound\",use=\"listener\"} 1\n",
            "portreeve_certificate_files_refused{name=\"inbound\",use=\"hub\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
