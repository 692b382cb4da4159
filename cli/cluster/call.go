// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/measurements/printable"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// CallError is why a node did not do what Init or Recover asks for.
type CallError struct {
	// Call is "init" or "recover".
	Call   string
	Reason api.Problem_Reason
	Step   api.Step
	// Text says what happened, Advice what can be done: the node's words.
	Text, Advice string
	// Journal is the end of the node's journal, after a step failed.
	Journal []byte
}

// Limits of what is shown of a node's words, in bytes.
const (
	maxWords   = 2000
	maxJournal = 256 << 10
)

// Error implements error.
func (e *CallError) Error() string {
	text := e.Call + ": " + e.Text
	if e.Step != api.Step_STEP_UNSPECIFIED {
		text = fmt.Sprintf("%s: step %s: %s", e.Call, StepName(e.Step), e.Text)
	}
	if e.Advice != "" {
		text += "\nwhat to do: " + e.Advice
	}
	return text
}

// StepName is what a step is called.
func StepName(s api.Step) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s.String(), "STEP_")), "_", "-")
}

// errCut says that the connection broke, or that another call is still at work: the same
// call again may find the rest of it.
type errCut struct {
	err  error
	busy bool
}

func (e *errCut) Error() string { return e.err.Error() }
func (e *errCut) Unwrap() error { return e.err }

// CallOptions adjust Init and Recover. Zero fields take the default named beside them.
type CallOptions struct {
	// Progress is told how far the node is.
	Progress func(*api.Progress)
	// Cut is told that the connection broke and is tried again.
	Cut func(error)
	// Patience is how long a node may be out of reach. Default 3 minutes.
	Patience time.Duration
	// Silence is how long a call may go on without a word before it counts as cut.
	// Default 2 minutes.
	Silence time.Duration
}

// Init makes the node the first of a cluster, or finds out how that goes on: after a cut
// connection it calls again with the same request. Its errors are *CallError,
// *RefusalError, or about the connection.
func (n *Node) Init(ctx context.Context, request *api.InitRequest, o CallOptions) (*api.Result, error) {
	return n.follow(ctx, "init", func(ctx context.Context) (progressStream, error) { return n.client.Init(ctx, request) }, o)
}

// Recover brings a node back whose cluster cannot, as Init makes one.
func (n *Node) Recover(ctx context.Context, request *api.RecoverRequest, o CallOptions) (*api.Result, error) {
	return n.follow(ctx, "recover", func(ctx context.Context) (progressStream, error) { return n.client.Recover(ctx, request) }, o)
}

// progressStream is what a node answers: its progress, and a result.
type progressStream = grpc.ServerStreamingClient[api.InitResponse]

// follow makes a call until it has a result, again after each cut.
func (n *Node) follow(ctx context.Context, call string, begin func(context.Context) (progressStream, error), o CallOptions) (*api.Result, error) {
	if o.Patience == 0 {
		o.Patience = 3 * time.Minute
	}
	if o.Silence == 0 {
		o.Silence = 2 * time.Minute
	}
	lastSign := time.Now()
	var last *api.Progress
	for {
		result, err := n.followOnce(ctx, call, begin, o.Silence, func(p *api.Progress) {
			lastSign = time.Now()
			if o.Progress != nil && !proto.Equal(p, last) { // a node that is still at the same says so again
				o.Progress(p)
			}
			last = p
		})
		var cut *errCut
		switch {
		case err == nil:
			return result, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case n.gate.refusal() != nil:
			return nil, &RefusalError{Address: n.Address, Err: n.gate.refusal()}
		case !errors.As(err, &cut):
			return nil, err
		case cut.busy:
			lastSign = time.Now()
		case time.Since(lastSign) > o.Patience:
			return nil, fmt.Errorf("the node at %s has been out of reach for %v: %w\nwhat to do: run the same command again when it is back: it continues where the node is", n.Address, o.Patience, cut.err)
		}
		if o.Cut != nil {
			o.Cut(cut.err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
			n.conn.ResetConnectBackoff()
		}
	}
}

var errSilent = errors.New("the node has said nothing")

func (n *Node) followOnce(ctx context.Context, call string, begin func(context.Context) (progressStream, error), silence time.Duration, progress func(*api.Progress)) (*api.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer silent.Stop()
	stream, err := begin(ctx)
	if err != nil {
		return nil, callError(call, err)
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, &errCut{err: errors.New("the node ended the call without a result")}
		}
		if context.Cause(ctx) == errSilent {
			return nil, &errCut{err: fmt.Errorf("%w for %v", errSilent, silence)}
		}
		if err != nil {
			return nil, callError(call, err)
		}
		silent.Reset(silence)
		switch m := response.Message.(type) {
		case *api.InitResponse_Progress:
			progress(m.Progress)
		case *api.InitResponse_Result:
			return m.Result, nil
		}
	}
}

// callError makes of a call's error what it is.
func callError(call string, err error) error {
	s := status.Convert(err)
	for _, d := range s.Details() {
		p, ok := d.(*api.Problem)
		if !ok {
			continue
		}
		if p.Reason == api.Problem_REASON_BUSY {
			return &errCut{errors.New(printable.Text(s.Message(), maxWords)), true}
		}
		return &CallError{
			Call: call, Reason: p.Reason, Step: p.Step, Text: printable.Text(s.Message(), maxWords), Advice: printable.Text(p.Advice, maxWords),
			Journal: p.Journal[:min(len(p.Journal), maxJournal)],
		}
	}
	text := printable.Text(s.Message(), maxWords)
	switch s.Code() {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return &errCut{err: errors.New(text)}
	case codes.Unimplemented:
		return &CallError{Call: call, Text: "the node's image does not know the call: " + text, Advice: "boot an image of the same version as this program"}
	}
	return &CallError{Call: call, Text: text, Advice: "run the same command again; if it fails again, see the node's console"}
}
