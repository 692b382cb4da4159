// SPDX-License-Identifier: Apache-2.0

// Package audit writes one line for each verdict of a service, and lets no flood of
// refusals push what matters out of a log of bounded size.
package audit

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/constellation-os/constellation/services/limit"
)

// Refusals of one address that are logged, in a second and at once.
const (
	RefusalRate  = 10
	RefusalBurst = 100
)

// Log is a service's.
type Log struct {
	logger   *slog.Logger
	lines    *limit.Rates
	unlogged atomic.Uint64
}

// New makes one that writes to a logger.
func New(logger *slog.Logger) *Log {
	return &Log{logger: logger, lines: limit.NewRates(RefusalRate, RefusalBurst)}
}

// Granted writes what was allowed.
func (l *Log) Granted(ctx context.Context, event string, attributes ...slog.Attr) {
	l.write(ctx, slog.LevelInfo, event, append(attributes, slog.String("verdict", "granted")))
}

// Refused writes what was not, and why. If stranger is set it is one more of those that
// anybody at that address can cause at any rate: of these some are left out, and
// counted in the next line.
func (l *Log) Refused(ctx context.Context, event, address string, stranger bool, reason string, err error, attributes ...slog.Attr) {
	if stranger && !l.lines.Allow(address) {
		l.unlogged.Add(1)
		return
	}
	l.write(ctx, slog.LevelWarn, event, append(attributes,
		slog.String("verdict", "refused"), slog.String("reason", reason), slog.String("error", err.Error())))
}

func (l *Log) write(ctx context.Context, level slog.Level, event string, attributes []slog.Attr) {
	if n := l.unlogged.Swap(0); n > 0 {
		attributes = append(attributes, slog.Uint64("unlogged", n))
	}
	l.logger.LogAttrs(ctx, level, event, attributes...)
}
