//! The status of a server, asked for once a second at most, however many want it. Pure.

use std::sync::Arc;

const ASK_EVERY_MS: u64 = 1_000;
/// A server that does not answer is shown as it was for so long; then it is down.
const SHOWN_FOR_MS: u64 = 300_000;
/// An answer that takes longer is none.
const ANSWER_MS: u64 = 3_000;

#[derive(Debug, Default)]
pub struct Status {
    packet: Option<(Arc<[u8]>, u64)>,
    asked_ms: Option<u64>,
    is_asking: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Answer(Arc<[u8]>),
    /// Have the origin asked, then look again.
    Ask,
    /// It is being asked, and there is nothing to show meanwhile: look again soon.
    Wait,
    /// The origin is down, and has been for long.
    Nothing,
}

impl Status {
    pub fn look(&mut self, fresh_ms: u64, now_ms: u64) -> Look {
        let age_ms = self.packet.as_ref().map_or(u64::MAX, |(_, at_ms)| now_ms.saturating_sub(*at_ms));
        let shown = |it: &Status| it.packet.as_ref().map_or(Look::Nothing, |(packet, _)| Look::Answer(packet.clone()));
        if age_ms < fresh_ms {
            return shown(self);
        }
        let since_ms = self.asked_ms.map_or(u64::MAX, |asked_ms| now_ms.saturating_sub(asked_ms));
        if self.is_asking && since_ms < ANSWER_MS {
            // A slow server keeps nobody waiting who can be told what it said last.
            return if age_ms < SHOWN_FOR_MS { shown(self) } else { Look::Wait };
        }
        if since_ms >= ASK_EVERY_MS {
            (self.asked_ms, self.is_asking) = (Some(now_ms), true);
            return Look::Ask;
        }
        if age_ms < SHOWN_FOR_MS { shown(self) } else { Look::Nothing }
    }

    pub fn answered(&mut self, packet: Option<Vec<u8>>, now_ms: u64) {
        self.is_asking = false;
        if let Some(packet) = packet {
            self.packet = Some((packet.into(), now_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Look {
        Look::Answer(text.as_bytes().into())
    }

    #[test]
    fn the_origin_is_asked_once_and_all_hear_its_answer_while_it_is_fresh() {
        let mut status = Status::default();
        assert_eq!([status.look(5_000, 1_000), status.look(5_000, 1_001)], [Look::Ask, Look::Wait]);
        status.answered(Some(b"one".to_vec()), 1_100);
        assert_eq!([status.look(5_000, 1_100), status.look(5_000, 6_099)], [answer("one"), answer("one")]);
        assert_eq!([status.look(5_000, 6_100), status.look(5_000, 6_100)], [Look::Ask, answer("one")]);
        assert_eq!(status.look(5_000, 6_100 + SHOWN_FOR_MS / 2), Look::Ask, "whoever asked is not heard of again");
    }

    #[test]
    fn an_origin_that_is_down_is_shown_as_it_was_and_asked_once_a_second() {
        let mut status = Status::default();
        status.answered(Some(b"one".to_vec()), 0);
        let mut asked = 0;
        for now_ms in (10_000..20_000).step_by(10) {
            match status.look(1_000, now_ms) {
                Look::Ask => {
                    asked += 1;
                    status.answered(None, now_ms);
                }
                other => assert_eq!(other, answer("one")),
            }
        }
        assert_eq!(asked, 10);
        assert_eq!(status.look(1_000, 400_000), Look::Ask);
        status.answered(None, 400_000);
        assert_eq!(status.look(1_000, 400_010), Look::Nothing);
    }

    #[test]
    fn whoever_asks_and_is_never_heard_of_again_blocks_nobody() {
        let mut status = Status::default();
        assert_eq!(status.look(1_000, 1_000), Look::Ask);
        assert_eq!(status.look(1_000, 3_999), Look::Wait);
        assert_eq!(status.look(1_000, 4_000), Look::Ask);
    }
}
