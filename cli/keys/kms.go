// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/pkcs11"
)

func kmsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kms",
		Short: "Try your own KMS or HSM",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(checkCommand())
	return cmd
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check URI",
		Short: "Prove that a KMS can wrap and unwrap a cluster's keys",
		Long: `check opens the KMS that URI names, describes its key, wraps a random key with it and
unwraps it again, and makes sure that a wrapped key is refused where it does not
belong. It leaves nothing behind. Where something fails it says what is missing.

URIs:
  pkcs11:token=TOKEN;object=LABEL?module-path=/PATH/OF/LIBRARY.so&pin-source=file:/PATH/OF/PIN
      an AES key in an HSM (RFC 7512). The PIN is in the file, never in the URI.

Exit codes: 0 all of it works, 1 something does not, 2 wrong usage.`,
		Example: `  constellation keys kms check 'pkcs11:token=prod;object=constellation?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			report, err := check(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), report)
			} else {
				var text bytes.Buffer
				report.write(&text)
				_, err = text.WriteTo(cmd.OutOrStdout())
			}
			if err == nil && !report.Works {
				err = command.ErrMismatch
			}
			return err
		},
	}
}

// report is the result of a check.
type report struct {
	Works bool                 `json:"works"`
	Key   *managed.Description `json:"key,omitempty"`
	Steps []step               `json:"steps"`
}

type step struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Class and Error say what went wrong, Advice what to do.
	Class  keys.Class `json:"class,omitempty"`
	Error  string     `json:"error,omitempty"`
	Advice string     `json:"advice,omitempty"`
}

var advice = map[keys.Class]string{
	keys.ClassUnreachable:  "is the KMS up, and does the URI name the right one?",
	keys.ClassTimeout:      "is the KMS up, and near enough?",
	keys.ClassThrottled:    "the KMS is busy: try again later, or raise its limits",
	keys.ClassNotPermitted: "give these credentials the right to use the key, or name the right credentials",
	keys.ClassKeyMissing:   "make the key, or let these credentials see it: an AES-256 key that may encrypt and decrypt",
	keys.ClassKeyDisabled:  "let the key encrypt and decrypt, and the KMS use it",
	keys.ClassWrongKey:     "the key changed under way: is it one key, on all of the KMS's machines?",
	keys.ClassCorrupted:    "the KMS does not answer as it must: is it the right one?",
}

// check tries a KMS. It returns an error only if there was nothing to try.
func check(ctx context.Context, uri string) (*report, error) {
	backends := managed.Backends{KMS: map[string]func(context.Context, string) (managed.KMS, error){pkcs11.Scheme: pkcs11.Open}}
	kms, err := backends.OpenKMS(ctx, uri)
	if err != nil {
		return nil, err
	}
	limits := managed.DefaultLimits()
	limits.Failures = 3 // somebody waits, and can try again
	guarded := managed.Guard(kms, limits)
	defer guarded.Close()
	return try(ctx, guarded), nil
}

func try(ctx context.Context, kms managed.KMS) *report {
	r := &report{Works: true}
	secret := keys.RandomSecret(keys.MasterSecretSize)
	defer secret.Wipe()
	key := secret.Copy()
	defer clear(key)
	binding, other := []byte("constellation/v1/check/a"), []byte("constellation/v1/check/b")
	var wrapped []byte
	r.step("describe the key", func() (err error) {
		r.Key, err = kms.Describe(ctx)
		return err
	})
	r.step("wrap a key", func() (err error) {
		wrapped, err = kms.Wrap(ctx, key, binding)
		return err
	})
	r.step("unwrap it", func() error {
		out, err := kms.Unwrap(ctx, wrapped, binding)
		defer clear(out)
		if err == nil && !bytes.Equal(out, key) {
			err = keys.Errorf(keys.ClassCorrupted, "the KMS unwrapped something else than it had wrapped")
		}
		return err
	})
	r.step("refuse it for another purpose", func() error {
		out, err := kms.Unwrap(ctx, wrapped, other)
		defer clear(out)
		if keys.ClassOf(err) == keys.ClassWrongKey {
			return nil
		}
		if err == nil {
			err = keys.Errorf(keys.ClassCorrupted, "the KMS does not authenticate what a key is for")
		}
		return err
	})
	return r
}

// step makes one, unless an earlier one failed.
func (r *report) step(name string, f func() error) {
	if !r.Works {
		return
	}
	s := step{Name: name, OK: true}
	if err := f(); err != nil {
		s.OK, s.Class, s.Error = false, keys.ClassOf(err), err.Error()
		if s.Advice = advice[s.Class]; s.Advice == "" {
			s.Advice = "correct the URI or the KMS's settings"
		}
		var e *keys.Error
		if errors.As(err, &e) {
			s.Error = e.Err.Error()
		}
		r.Works = false
	}
	r.Steps = append(r.Steps, s)
}

func (r *report) write(w io.Writer) {
	if k := r.Key; k != nil {
		fmt.Fprintf(w, "KMS        %s\nkey        %s\nalgorithm  %s\n", k.KMS, k.KeyID, k.Algorithm)
		for _, warning := range k.Warnings {
			fmt.Fprintf(w, "warning    %s\n", warning)
		}
		fmt.Fprintln(w)
	}
	for _, s := range r.Steps {
		if s.OK {
			fmt.Fprintf(w, "ok      %s\n", s.Name)
		} else {
			fmt.Fprintf(w, "failed  %s\n        %s: %s\n        what to do: %s\n", s.Name, s.Class, s.Error, s.Advice)
		}
	}
	if r.Works {
		fmt.Fprintln(w, "\nthe KMS can hold this cluster's key")
	} else {
		fmt.Fprintln(w, "\nthe KMS cannot be used as it is")
	}
}
