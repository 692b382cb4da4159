// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
)

func challengeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "challenge EVIDENCE --nonce NONCE --secret FILE",
		Short: "Make a challenge that only the TPM named in evidence can answer",
		Long: `challenge encrypts a secret to the endorsement key that EVIDENCE names, so that the
TPM decrypts it only if it also holds the key that signed the evidence (TPM 2.0
Library, Part 1, section 24). The challenge goes to the machine; the secret stays with
the verifier, in a file that only its owner can read, until verify needs it.

Nothing is judged here: verify judges the evidence, and that the challenge was made for
the very keys in it and for this nonce.`,
		Example: `  constellation evidence challenge evidence.json --nonce $nonce --secret secret.json > challenge`,
		Args:    cobra.ExactArgs(1),
	}
	binding, out := nonceFlag(cmd), outFlag(cmd)
	secret := cmd.Flags().String("secret", "", "file to keep the secret in, which must not exist (mode 0600)")
	cmd.MarkFlagRequired("secret")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, err := binding()
		if err != nil {
			return err
		}
		if *secret == "-" {
			return errors.New("--secret: name a file, the secret is not for a terminal or a pipe")
		}
		e, refusal, err := readEvidence(cmd, args[0])
		if err := errors.Join(err, refusal); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		challenge, pending, err := tpm.NewChallenge(e, b)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		kept, err := pending.Marshal()
		if err != nil {
			return err
		}
		if err := command.WriteNew(cmd, *secret, kept, 0o600); err != nil {
			return fmt.Errorf("keep the secret: %w", err)
		}
		if err := command.WriteNew(cmd, *out, formatLine(challenge), 0o644); err != nil {
			return errors.Join(err, os.Remove(command.FromCaller(*secret)))
		}
		return nil
	}
	return cmd
}
