//! Lists in pages: `{data, pagination}` and opaque cursors.
//!
//! A cursor is the trail of the positions where pages began, so that it leads back as well as on. It holds
//! no authority: every query names its tenant.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{
    AgentId, AssetId, BatchId, ClientTokenId, ConversationId, DeliveryId, DeploymentId, EvalId, FeedbackId, FiringId, FlowId, RecordId,
    RunId, ScheduleId, ToolId,
};

/// Rows on a page when nobody says.
const DEFAULT_LIMIT: u32 = 50;
/// Maximum number of rows per page. A larger `limit` is reduced to it, unless the list refuses it.
pub const MAX_LIMIT: u32 = 200;
/// Longest way back: from further pages it leads to the first page.
const LONGEST_TRAIL: usize = 100;

/// The query of a list.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paging {
    /// Rows per page, 1 to 200; 50 by default.
    pub limit: Option<u32>,
    /// A `nextCursor` or `prevCursor` of an earlier answer.
    pub cursor: Option<String>,
    /// Only rows whose name contains this, whatever the case.
    pub search: Option<String>,
}

impl Paging {
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// The search text, if there is any.
    pub fn search(&self) -> Option<&str> {
        self.search.as_deref().filter(|text| !text.is_empty())
    }

    /// Where the page begins. Error: `invalid_cursor` (400).
    pub fn trail<P: Position>(&self) -> Result<Trail<P>> {
        self.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map_or_else(|| Ok(Trail(Vec::new())), Trail::parse)
    }
}

/// A place in a list, in bytes of fixed length.
pub trait Position: Copy {
    /// Tells cursors of different lists apart.
    const KIND: u8;
    const LEN: usize;

    fn write(&self, out: &mut Vec<u8>);

    /// Reads [`Position::LEN`] bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! by_id {
    ($($id:ty = $kind:literal),* $(,)?) => {$(
        impl Position for $id {
            const KIND: u8 = $kind;
            const LEN: usize = 16;

            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.as_u128().to_be_bytes());
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(|bytes| Self::from_u128(u128::from_be_bytes(bytes)))
            }
        }
    )*};
}

by_id! { FlowId = 1, RunId = 3, AgentId = 4, ClientTokenId = 5, ConversationId = 6, FeedbackId = 7, ToolId = 8, ScheduleId = 9, FiringId = 10, AssetId = 11, BatchId = 12, EvalId = 13, DeliveryId = 14, DeploymentId = 15 }

impl Position for (Timestamp, RecordId) {
    const KIND: u8 = 2;
    const LEN: usize = 24;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.as_millis().to_be_bytes());
        out.extend(self.1.as_u128().to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (time, id) = bytes.split_first_chunk::<8>()?;
        let id = id.try_into().ok()?;
        Some((Timestamp::from_millis(i64::from_be_bytes(*time)), RecordId::from_u128(u128::from_be_bytes(id))))
    }
}

/// The positions after which the pages so far began; empty on the first page.
#[derive(Debug, Clone, PartialEq)]
pub struct Trail<P>(Vec<P>);

impl<P: Position> Trail<P> {
    fn parse(text: &str) -> Result<Self> {
        let wrong =
            || Error::new(Kind::Malformed, "invalid_cursor", "this cursor is none of this list's").next("start again without a cursor");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let (kind, positions) = bytes.split_first().ok_or_else(wrong)?;
        if *kind != P::KIND || positions.len() % P::LEN != 0 || positions.len() / P::LEN > LONGEST_TRAIL {
            return Err(wrong());
        }
        positions.chunks_exact(P::LEN).map(P::read).collect::<Option<_>>().map(Self).ok_or_else(wrong)
    }

    /// The position after which this page begins.
    pub fn after(&self) -> Option<P> {
        self.0.last().copied()
    }

    /// Makes a page of rows, of which one more than `limit` may have been read to see whether there are more.
    pub fn page<R>(&self, mut rows: Vec<R>, limit: u32, more: bool, position: impl Fn(&R) -> P) -> Page<R> {
        let more = more || rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|last| self.and(position(last)).to_string());
        let prev = self.0.split_last().map(|(_, before)| Trail(before.to_vec()).to_string());
        let page = self.0.len();
        let pagination = Pagination {
            has_more: next.is_some(),
            has_prev: prev.is_some(),
            next_cursor: next,
            prev_cursor: prev,
            limit,
            current_page: page as u64 + 1,
            page: page as u64 + 1,
            current_offset: page as u64 * u64::from(limit),
            offset: page as u64 * u64::from(limit),
            total_pages: None,
            total_count: None,
        };
        Page { data: rows, pagination }
    }

    /// The way on from here.
    pub fn and(&self, position: P) -> Self {
        let skip = (self.0.len() + 1).saturating_sub(LONGEST_TRAIL);
        Self(self.0.iter().skip(skip).copied().chain([position]).collect())
    }
}

impl<P: Position> fmt::Display for Trail<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![P::KIND];
        self.0.iter().for_each(|position| position.write(&mut bytes));
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "{R}Page")]
pub struct Page<R> {
    pub data: Vec<R>,
    pub pagination: Pagination,
}

/// Where a page lies in its list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pagination {
    pub next_cursor: Option<String>,
    pub prev_cursor: Option<String>,
    pub has_more: bool,
    pub has_prev: bool,
    pub limit: u32,
    /// 1 for the first page.
    pub current_page: u64,
    /// Same as `currentPage`.
    pub page: u64,
    /// Rows before this page, if all pages had this limit.
    pub current_offset: u64,
    /// Same as `currentOffset`.
    pub offset: u64,
    /// Not counted: always null.
    pub total_pages: Option<u64>,
    /// Not counted: always null.
    pub total_count: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(cursor: Option<String>) -> Paging {
        Paging { limit: Some(2), cursor, search: None }
    }

    fn list(cursor: Option<String>) -> Page<FlowId> {
        let trail: Trail<FlowId> = paging(cursor).trail().unwrap();
        let rows = (1..=5).map(FlowId::from_u128).filter(|id| trail.after().is_none_or(|after| *id > after)).take(3).collect();
        trail.page(rows, 2, false, |id| *id)
    }

    #[test]
    fn cursors_lead_on_and_back() {
        let first = list(None);
        let second = list(first.pagination.next_cursor.clone());
        let third = list(second.pagination.next_cursor.clone());
        assert_eq!(third.data, [FlowId::from_u128(5)]);
        assert!(!third.pagination.has_more && third.pagination.current_offset == 4);
        assert_eq!(list(third.pagination.prev_cursor).data, second.data);
        assert_eq!(list(second.pagination.prev_cursor).data, first.data);
        assert!(!first.pagination.has_prev);
    }

    #[test]
    fn foreign_and_broken_cursors_are_refused() {
        let of_records = Trail(vec![(Timestamp::from_millis(5), RecordId::from_u128(1))]).to_string();
        for cursor in [of_records.as_str(), "!", "AQ0", &"A".repeat(9_000)] {
            assert!(paging(Some(cursor.into())).trail::<FlowId>().is_err(), "{cursor}");
        }
    }

    #[test]
    fn trails_stay_short() {
        let trail = (0..500).fold(Trail(Vec::new()), |trail, number| trail.and(FlowId::from_u128(number)));
        assert_eq!(trail.0.len(), LONGEST_TRAIL);
        assert_eq!(Trail::parse(&trail.to_string()).ok(), Some(trail));
    }
}
