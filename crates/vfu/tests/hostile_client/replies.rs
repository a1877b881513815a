//! S4, S5: replies that are none, or that do not come.

use vfu::Client;
use vfu::client::ClientError;
use vfu::wire::{Command, Errno};
use vfu_testkit::{KitError, RawMessage, RawPeer, message, within};

use crate::alone::alone;
use crate::server::{CALLS, Hostile, connect, hasty_client, truth};

/// What makes a lie of the bytes of a reply.
type Change = fn(&mut Vec<u8>);
/// What a server does with a request.
type Play = fn(&RawPeer, &RawMessage) -> Result<(), KitError>;

/// What a call of a client says in the end.
fn called(
    client: &Client,
    call: fn(&Client) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let client = client.clone();
    within("a call", move || call(&client))
}

/// Reads 8 bytes, which an honest server answers with `0x11`.
fn read(client: &Client) -> Result<(), ClientError> {
    called(client, |client| {
        let mut data = [0; 8];
        client.region_read(0, 0x10, &mut data)?;
        assert_eq!(data, [0x11; 8]);
        Ok(())
    })
}

fn honest(peer: &RawPeer, request: &RawMessage) -> Result<(), KitError> {
    peer.send(&request.reply(&truth(request)))
}

/// The bytes of an honest reply, changed.
fn changed(request: &RawMessage, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut reply = request.reply(&truth(request));
    change(&mut reply);
    reply
}

/// A client whose first read is answered with these bytes, and everything else with the truth.
fn first_answer(bytes: impl FnOnce(&RawMessage) -> Vec<u8> + Send + 'static) -> (Hostile, Client) {
    let mut bytes = Some(bytes);
    let server =
        Hostile::lying_about(Command::RegionRead, move |peer, request| match bytes.take() {
            Some(bytes) => peer.send(&bytes(request)),
            None => honest(peer, request),
        });
    let client = connect(&server);
    (server, client)
}

#[test]
fn s04_replies_that_answer_something_else() {
    alone!(|| {
        // Whatever else comes, the reply that was waited for counts.
        let (_server, client) = first_answer(|request| {
            let mut all = Vec::new();
            for id in 0..63 {
                let stray = request.header.id.wrapping_add(0x8000 + id);
                all.extend(message(stray, 9, 1, &vec![0xee; 1000 * usize::from(id)]));
            }
            all.extend(changed(request, |_| {}));
            // Once more: nobody waits for it now.
            all.extend(changed(request, |_| {}));
            all
        });
        read(&client).unwrap();
        read(&client).unwrap();
        assert_eq!(client.counters().stray_replies, 64);
        drop(client);

        // One more of them ends the session.
        let (_server, client) = first_answer(|request| {
            let stray = message(request.header.id.wrapping_add(1), 9, 1, &[]);
            [stray.repeat(65), changed(request, |_| {})].concat()
        });
        let ended = read(&client).unwrap_err();
        assert!(ended.to_string().contains("too many replies"), "{ended}");
        drop(client);

        // To another command, under the right id.
        for command in [0u16, 1, 8, 10, 16, 0xffff] {
            let (_server, client) = first_answer(move |request| {
                changed(request, |reply| reply[2..4].copy_from_slice(&command.to_le_bytes()))
            });
            assert!(matches!(read(&client), Err(ClientError::Malformed { .. })), "{command}");
            read(&client).unwrap();
        }
    });
}

/// Two requests under way, each answered under the id of the other.
#[test]
fn s04_replies_under_each_others_ids() {
    alone!(|| {
        let server = Hostile::new(|peer| {
            peer.answer_handshake(crate::server::JSON, &[])?;
            let (one, two) = (peer.recv()?, peer.recv()?);
            for (request, other) in [(&one, &two), (&two, &one)] {
                peer.send(&changed(request, |reply| {
                    reply[..2].copy_from_slice(&other.header.id.to_le_bytes());
                }))?;
            }
            let third = peer.recv()?;
            honest(&peer, &third)
        });
        let client = connect(&server);
        let (a, b) = (client.clone(), client.clone());
        within("both", move || {
            let other = std::thread::spawn(move || a.device_info().map(drop));
            let ours = b.region_read(0, 0x10, &mut [0; 8]);
            assert!(matches!(ours, Err(ClientError::Malformed { .. })), "{ours:?}");
            let others = other.join().unwrap();
            assert!(matches!(others, Err(ClientError::Malformed { .. })), "{others:?}");
        });
        read(&client).unwrap();
    });
}

#[test]
fn s04_replies_that_break_the_stream() {
    alone!(|| {
        let set = |at: usize, value: u32| {
            move |request: &RawMessage| {
                changed(request, |reply| reply[at..at + 4].copy_from_slice(&value.to_le_bytes()))
            }
        };
        let sizes = [0, 8, 15, u32::MAX, 1 << 31, (1 << 20) + 4097].map(|size| set(4, size));
        let types = [2, 3, 7, 15].map(|kind| set(8, kind));
        for answer in sizes.into_iter().chain(types) {
            let (_server, client) = first_answer(answer);
            let ended = read(&client).unwrap_err();
            let text = ended.to_string();
            assert!(matches!(ended, ClientError::Closed(_)), "{text}");
            assert!(text.contains("broken message"), "{text}");
            assert!(matches!(read(&client), Err(ClientError::Closed(_))), "and it stays so");
        }
        // A command instead of a reply: it is served, and the reply comes behind it.
        let (_server, client) = first_answer(|request| {
            [message(1, 11, 0, &[0; 16]), changed(request, |_| {})].concat()
        });
        read(&client).unwrap();
    });
}

#[test]
fn s04_replies_of_the_wrong_length() {
    alone!(|| {
        let lies: [(&str, bool, Change); 6] = [
            ("a header alone", false, |reply| reply.truncate(16)),
            ("half of the fields", false, |reply| reply.truncate(24)),
            ("no data", false, |reply| reply.truncate(32)),
            ("a byte less", false, |reply| reply.truncate(39)),
            ("a byte more than it says", true, |reply| reply.push(0)),
            ("a megabyte more than it says", true, |reply| reply.resize(1 << 20, 0)),
        ];
        for (what, is_harmless, lie) in lies {
            let (_server, client) = first_answer(move |request| {
                changed(request, |reply| {
                    lie(reply);
                    let size = reply.len() as u32;
                    reply[4..8].copy_from_slice(&size.to_le_bytes());
                })
            });
            let said = read(&client);
            let malformed = matches!(said, Err(ClientError::Malformed { .. }));
            assert!(if is_harmless { said.is_ok() } else { malformed }, "{what}: {said:?}");
            read(&client).unwrap();
        }
    });
}

#[test]
fn s04_errors_of_all_kinds() {
    alone!(|| {
        let errnos = [(0, Errno::EIO), (1, Errno::EPERM), (u32::MAX, Errno::EIO)];
        let errnos = errnos.into_iter().chain([(1 << 31, Errno::EIO), (4096, Errno::EIO)]);
        for (number, expected) in errnos {
            for with_payload in [false, true] {
                let (_server, client) = first_answer(move |request| {
                    changed(request, |reply| {
                        if !with_payload {
                            reply.truncate(16);
                            reply[4] = 16;
                        }
                        reply[8] |= 0x20;
                        reply[12..16].copy_from_slice(&number.to_le_bytes());
                    })
                });
                match read(&client) {
                    Err(ClientError::Refused { errno, .. }) => assert_eq!(errno, expected),
                    other => panic!("{number}: {other:?}"),
                }
                read(&client).unwrap();
            }
        }
        // What is reserved is not looked at; NO_REPLY in a reply means nothing.
        for flags in [0xffff_ffc0u32, 0x10] {
            let (_server, client) = first_answer(move |request| {
                changed(request, |reply| {
                    reply[8..12].copy_from_slice(&(1 | flags).to_le_bytes());
                })
            });
            read(&client).unwrap();
        }
    });
}

#[test]
fn s04_replies_in_pieces() {
    alone!(|| {
        let server =
            Hostile::session(|peer, request| peer.send_bytewise(&request.reply(&truth(request))));
        let client = connect(&server);
        for (_, call) in CALLS {
            called(&client, call).unwrap();
        }
        client.close();
    });
}

/// A part of the reply, and then nothing: first the call ends, then the session.
#[test]
fn s04_a_reply_that_stalls() {
    alone!(|| {
        for part in [1, 15, 16, 17, 39] {
            let (_server, client) = hasty_client(|| {
                Hostile::lying_about(Command::RegionRead, move |peer, request| {
                    peer.send(&changed(request, |reply| reply.truncate(part)))
                })
            });
            match read(&client) {
                Err(ClientError::TimedOut(Command::RegionRead)) => {}
                Err(ClientError::Closed(why)) => assert!(why.to_string().contains("unfinished")),
                other => panic!("{part}: {other:?}"),
            }
            let ended = within("the end of the session", {
                let client = client.clone();
                move || loop {
                    // Each of them waits for its own time, and looks.
                    if let Err(ClientError::Closed(why)) = client.device_info() {
                        return why.to_string();
                    }
                }
            });
            // The answer to a later request may complete the reply, with nonsense.
            assert!(ended.contains("unfinished") || ended.contains("broken"), "{ended}");
        }
    });
}

/// For each call: the server answers the others, and plays this to that one.
fn each_call(play: Play, soon: bool, check: impl Fn(Command, Result<(), ClientError>, &Client)) {
    for (command, call) in CALLS {
        let make = || {
            let mut played = false;
            Hostile::lying_about(command, move |peer, request| {
                let again = std::mem::replace(&mut played, true);
                if again { honest(peer, request) } else { play(peer, request) }
            })
        };
        let (_server, client) = if soon {
            hasty_client(make)
        } else {
            let server = make();
            let client = connect(&server);
            (server, client)
        };
        check(command, called(&client, call), &client);
    }
}

#[test]
fn s05_no_reply_and_late_replies() {
    alone!(|| {
        // Nothing comes: the call ends, and the session goes on.
        each_call(
            |_, _| Ok(()),
            true,
            |_, said, client| {
                let Err(e @ ClientError::TimedOut(command)) = said else { panic!("{said:?}") };
                assert!(e.to_string().contains(command.name()));
                assert!(client.closed().is_none());
            },
        );
        for (command, call) in CALLS {
            // It comes in front of the next one.
            let (_server, client) = hasty_client(|| {
                let (mut asked, mut owed) = (false, Vec::new());
                Hostile::session(move |peer, request| {
                    let is_it = request.header.command == command.as_u16();
                    if is_it && !std::mem::replace(&mut asked, true) {
                        owed = request.reply(&truth(request));
                        return Ok(());
                    }
                    peer.send(&std::mem::take(&mut owed))?;
                    honest(peer, request)
                })
            });
            let said = called(&client, call);
            assert!(matches!(said, Err(ClientError::TimedOut(_))), "{command:?}: {said:?}");
            // On a slow machine others may be late, too.
            while let Err(e) = read(&client) {
                assert!(matches!(e, ClientError::TimedOut(_)), "{e}");
            }
            let counters = client.counters();
            assert!(counters.late_replies >= 1 && counters.stray_replies == 0, "{counters:?}");
        }
    });
}

#[test]
fn s05_the_end_instead_of_a_reply() {
    alone!(|| {
        let ends: [Play; 4] = [
            |_, _| Err(KitError::Closed),
            |peer, request| {
                peer.send(&request.reply(&truth(request))[..1])?;
                Err(KitError::Closed)
            },
            |peer, request| {
                peer.send(&request.reply(&truth(request))[..16])?;
                Err(KitError::Closed)
            },
            |peer, request| {
                let longer = changed(request, |reply| {
                    let size = reply.len() as u32 + 1;
                    reply[4..8].copy_from_slice(&size.to_le_bytes());
                });
                peer.send(&longer)?;
                Err(KitError::Closed)
            },
        ];
        for (number, end) in ends.into_iter().enumerate() {
            each_call(end, false, |command, said, client| {
                // A reply that is a header is whole with it.
                let whole = number == 2 && said.is_ok();
                let closed = matches!(said, Err(ClientError::Closed(_)));
                assert!(whole || closed, "{number}, {command:?}: {said:?}");
                assert!(matches!(read(client), Err(ClientError::Closed(_))));
            });
        }
    });
}
