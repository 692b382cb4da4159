// SPDX-License-Identifier: Apache-2.0

/* The exchange of docs/atls.md among honest machines and one attacker.
 *
 * There are CONNS connections: with two, a relay has both of its sides, and a
 * replay its earlier connection, and the search ends within a second. Each
 * end belongs to an honest machine or to the attacker, in every combination. TLS
 * certificates say nothing here, so the attacker may hold any of their keys: what
 * it cannot have is the exporter of a connection neither of whose ends is its own.
 *
 * At an honest end: a fresh nonce; evidence over (exporter, client nonce, server
 * nonce, role); and acceptance of evidence that matches its own view. Honest ends
 * issue and verify in any order, which allows more than the protocol does. All
 * honest machines are acceptable to each other's policy: the worst case.
 *
 * The attacker starts as many connections as it likes, answers with any nonce that
 * it has seen or made, and shows any evidence that it was ever shown. It cannot
 * forge evidence: signatures are unbreakable here.
 *
 * Claimed: whoever accepts has at the other end of this very connection an honest
 * machine in the other role, whose evidence was made after the nonce.
 *
 * The claims can fail: NO_EXPORTER, NO_NONCES and NO_ROLE leave a part out of the
 * binding. SAME_EXPORTER makes exporters repeat, as they would if connections were
 * resumed or a peer's randomness failed; the nonces then still keep evidence fresh.
 * REACHED claims that nobody ever accepts, which must be false.
 */

#ifndef CONNS
#define CONNS 2
#endif
#define ENDS (2 * CONNS)
#define FOREIGN ENDS /* a nonce of the attacker's own */

#define PEER(e) ((e) ^ 1)
#define CONN(e) ((e) / 2)
#define SIDE(e) ((e) % 2) /* 0 client, 1 server */

bool honest[ENDS];
bool made[ENDS];       /* the end's nonce exists */
bool issued[ENDS];     /* the end has made its evidence, over: */
byte ev_exporter[ENDS];
byte ev_client[ENDS];
byte ev_server[ENDS];
bool ev_role[ENDS];
byte ev_after[ENDS];   /* set of the nonces that existed when it was made */
byte nonces;           /* set of the nonces that exist */

#ifdef SAME_EXPORTER
#define EXPORTER(e) 0
#else
#define EXPORTER(e) CONN(e)
#endif

inline matches(e, k, cn, sn, ok) {
	ok = true;
#ifndef NO_EXPORTER
	ok = ok && ev_exporter[k] == EXPORTER(e);
#endif
#ifndef NO_NONCES
	ok = ok && ev_client[k] == cn && ev_server[k] == sn;
#endif
#ifndef NO_ROLE
	ok = ok && ev_role[k] == 1 - SIDE(e);
#endif
}

proctype End(byte e) {
	byte theirs, cn, sn, k;
	bool ok, proved, verified;

	d_step { made[e] = true; nonces = nonces | (1 << e); }

	/* The peer's hello: its own, or whatever the attacker likes. */
	if
	:: honest[PEER(e)] -> made[PEER(e)]; theirs = PEER(e)
	:: !honest[PEER(e)] -> atomic {
			/* the protocol refuses its own nonce; one that nobody made is the attacker's */
			do
			:: theirs == FOREIGN -> break
			:: theirs < FOREIGN && theirs != e && made[theirs] -> break
			:: theirs < FOREIGN -> theirs++
			od
		}
	fi;
	d_step {
		if
		:: SIDE(e) == 0 -> cn = e; sn = theirs
		:: else -> cn = theirs; sn = e
		fi
	}

	do
	:: !proved -> d_step {
			ev_exporter[e] = EXPORTER(e); ev_client[e] = cn; ev_server[e] = sn;
			ev_role[e] = SIDE(e); ev_after[e] = nonces; issued[e] = true; proved = true
		}
	:: !verified -> atomic {
			/* An honest peer shows its own evidence, the attacker any that it was
			 * shown, or none that is worth a look. */
			k = 0;
			do
			:: k == ENDS -> break
			:: k < ENDS && issued[k] && (honest[PEER(e)] -> k == PEER(e) : !honest[PEER(k)]) -> break
			:: k < ENDS -> k++
			od;
			if
			:: k == ENDS -> goto done
			:: else
			fi;
			matches(e, k, cn, sn, ok);
			verified = true;
			if
			:: ok ->
#ifdef REACHED
				assert(false);
#endif
#ifndef ONLY_FRESH
				assert(honest[PEER(e)] && k == PEER(e));
				assert(ev_role[k] == 1 - SIDE(e));
#endif
				assert(ev_after[k] & (1 << e))
			:: else
			fi
		}
	:: proved && verified -> break
	od;
done:	skip
}

init {
	byte e;
	do
	:: e < ENDS ->
		if
		:: honest[e] = true
		:: honest[e] = false
		fi;
		e++
	:: else -> break
	od;
	e = 0;
	atomic {
		do
		:: e < ENDS && honest[e] -> run End(e); e++
		:: e < ENDS && !honest[e] -> e++
		:: e == ENDS -> break
		od
	}
}
