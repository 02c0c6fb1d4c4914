//! Labelled metrics whose series live exactly as long as somebody holds a handle to them.
//!
//! The vectors of `prometheus` find a series by a hash over its label values written one after the other without a
//! separator, so that listener `a` with route `bc` and listener `ab` with route `c` share one counter. They also keep a
//! series until it is removed by name, which races with a reload that asks for the same name. Here the label values
//! themselves are the key, and a series goes when the last handle goes: a route that a reload removed takes its series
//! with it once its last request has ended, and a route that stays keeps counting.

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc, Metric};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Weak};

/// A kind of metric that can be a member of a family.
pub trait Member: Metric + Collector + 'static {
    fn make(name: &str, help: &str, labels: HashMap<String, String>) -> prometheus::Result<Self>;
}

impl Member for IntCounter {
    fn make(name: &str, help: &str, labels: HashMap<String, String>) -> prometheus::Result<Self> {
        Self::with_opts(Opts::new(name, help).const_labels(labels))
    }
}

impl Member for IntGauge {
    fn make(name: &str, help: &str, labels: HashMap<String, String>) -> prometheus::Result<Self> {
        Self::with_opts(Opts::new(name, help).const_labels(labels))
    }
}

/// From half a millisecond, what a gateway adds, to the usual timeout of 30 s.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Member for Histogram {
    fn make(name: &str, help: &str, labels: HashMap<String, String>) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts::new(name, help).const_labels(labels).buckets(SECONDS.to_vec()))
    }
}

type Values = Box<[Box<str>]>;

struct Core<M: Member> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    desc: Desc,
    series: Mutex<HashMap<Values, Weak<Entry<M>>>>,
}

struct Entry<M: Member> {
    metric: M,
    values: Values,
    family: Weak<Core<M>>,
}

impl<M: Member> Drop for Entry<M> {
    fn drop(&mut self) {
        let Some(family) = self.family.upgrade() else { return };
        let mut series = family.series.lock();
        // Between our last handle and this lock, somebody may have made the series anew: then it stays.
        if series.get(&self.values).is_some_and(|entry| entry.strong_count() == 0) {
            series.remove(&self.values);
        }
    }
}

/// One name with its labels.
pub struct Family<M: Member>(Arc<Core<M>>);

impl<M: Member> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Member> Family<M> {
    pub(super) fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> prometheus::Result<Self> {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())?;
        Ok(Self(Arc::new(Core { name, help, labels, desc, series: Mutex::default() })))
    }

    /// The series with these label values, in the order of the family's labels: the running one, or a new one at zero.
    ///
    /// Takes a lock and allocates: once at load, or once for each new value, never for each request.
    pub fn series(&self, values: &[&str]) -> Series<M> {
        debug_assert_eq!(values.len(), self.0.labels.len(), "{}: one value for each label", self.0.name);
        let key: Values = values.iter().map(|value| Box::from(*value)).collect();
        let mut series = self.0.series.lock();
        if let Some(entry) = series.get(&key).and_then(Weak::upgrade) {
            return Series(entry);
        }
        let labels = self.0.labels.iter().zip(values).map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        #[expect(clippy::expect_used, reason = "only names can be refused: they are constants, and `new` has checked them")]
        let metric = M::make(self.0.name, self.0.help, labels.collect()).expect("the names of the family are valid");
        let entry = Arc::new(Entry { metric, values: key.clone(), family: Arc::downgrade(&self.0) });
        series.insert(key, Arc::downgrade(&entry));
        Series(entry)
    }
}

impl<M: Member> Collector for Family<M> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A handle that we are the last to hold is dropped after the lock: its drop takes the lock itself.
        let entries: Vec<_> = self.0.series.lock().values().filter_map(Weak::upgrade).collect();
        let mut families = entries.iter().flat_map(|entry| entry.metric.collect());
        let Some(mut all) = families.next() else { return Vec::new() };
        let mut metrics = all.take_metric();
        for mut family in families {
            metrics.extend(family.take_metric());
        }
        all.set_metric(metrics);
        vec![all]
    }
}

/// A handle to one series. The series is exposed while at least one handle exists.
pub struct Series<M: Member>(Arc<Entry<M>>);

impl<M: Member> Clone for Series<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Member> Deref for Series<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0.metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family() -> Family<IntCounter> {
        Family::new("test_total", "Help.", &["one", "two"]).unwrap()
    }

    fn exposed<M: Member>(family: &Family<M>) -> usize {
        family.collect().iter().map(|family| family.get_metric().len()).sum()
    }

    #[test]
    fn values_that_join_to_the_same_text_are_different_series() {
        let family = family();
        let (one, two) = (family.series(&["a", "bc"]), family.series(&["ab", "c"]));
        one.inc();
        assert_eq!((one.get(), two.get()), (1, 0));
        assert_eq!(exposed(&family), 2);
    }

    #[test]
    fn a_series_lives_as_long_as_its_last_handle() {
        let family = family();
        let first = family.series(&["a", "b"]);
        first.inc();
        let second = family.series(&["a", "b"]);
        drop(first);
        assert_eq!((second.get(), exposed(&family)), (1, 1));
        drop(second);
        assert_eq!(exposed(&family), 0);
        assert!(family.0.series.lock().is_empty());
        assert_eq!(family.series(&["a", "b"]).get(), 0);
    }

    #[test]
    fn making_dropping_and_collecting_at_once_loses_no_live_series() {
        let family = family();
        let kept = family.series(&["kept", ""]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let series = family.series(&["flicker", ""]);
                        series.inc();
                        assert!(series.get() > 0);
                        assert!(exposed(&family) >= 1);
                    }
                });
            }
        });
        let flicker = family.series(&["flicker", ""]);
        assert_eq!((flicker.get(), exposed(&family)), (0, 2));
        drop((kept, flicker));
        assert!(family.0.series.lock().is_empty());
    }
}
