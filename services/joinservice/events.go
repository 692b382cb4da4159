// SPDX-License-Identifier: Apache-2.0

package joinservice

// Event is for whoever watches the cluster.
type Event struct {
	Warning bool
	// Reason is one of a few words, Note what happened.
	Reason, Note string
}

// Recorder takes events. It never waits: what is too much is left out.
type Recorder interface {
	Record(Event)
}

// Reasons of events: what happened, to which kind of request.
var eventReasons = map[string][2]string{
	kindJoin:       {"JoinRefused", "JoinGranted"},
	kindRejoin:     {"RejoinRefused", "RejoinGranted"},
	kindGeneration: {"DiskRefused", "DiskAccepted"},
	kindHandshake:  {"MachineRefused", "MachineAccepted"},
	kindPolicy:     {"PolicyRefused", "PolicyChanged"},
	kindCluster:    {"ClusterRefused", "ClusterChanged"},
}

func eventReason(kind string, granted bool) string {
	if granted {
		return eventReasons[kind][1]
	}
	return eventReasons[kind][0]
}

const (
	kindHandshake = "handshake"
	kindPolicy    = "policy"
	kindCluster   = "cluster"
)
