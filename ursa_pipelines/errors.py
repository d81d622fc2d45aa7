"""Every error that `ursa_pipelines` raises on purpose.

Each one names the recording, the place and the remedy, because its text is what an operator reads
on a Dagster page. `Retryable` errors pass by themselves or with time; all others need somebody to act.
"""

from __future__ import annotations

_SHOWN = 1500


class UrsaError(Exception):
    """Base of all errors of this package.

    Attributes: `problem` (what is wrong), `recording` (rec_id or None), `place` (file, key or manifest
    field, or None) and `remedy` (what to do next). `str()` gives them as one sentence each.
    """

    remedy = "Run `ursa doctor` and read the line that fails."

    def __init__(
        self,
        problem: str,
        *,
        recording: str | None = None,
        place: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.recording = recording
        self.place = place
        self.remedy = remedy or type(self).remedy
        super().__init__(problem)

    @property
    def told(self) -> str:
        """What is wrong and where, without the remedy."""
        where = ": ".join(part for part in (self.recording, self.place) if part)
        return _printable(f"{where}: {self.problem}" if where else self.problem)

    def __str__(self) -> str:
        return f"{self.told.rstrip('.')}. {_printable(self.remedy)}"

    def _render_traceback_(self) -> list[str]:
        """The lines that a notebook shows in place of the stack (a hook of IPython's); `traceback` has the whole."""
        told = self.told if len(self.told) <= _SHOWN else f"{self.told[:_SHOWN]}\u2026"
        return [f"{type(self).__name__}: {told.rstrip('.')}.", "", f"What to do: {_printable(self.remedy)}"]

    def __reduce__(self):
        return _rebuild, (type(self), self.problem, dict(self.__dict__))


def _printable(text: str) -> str:
    """What an operator reads may repeat a hostile name: line breaks, bidi and invisible characters are escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _rebuild(cls: type[UrsaError], problem: str, state: dict) -> UrsaError:
    error = cls.__new__(cls)
    Exception.__init__(error, problem)
    error.__dict__.update(state)
    return error


class Retryable(UrsaError):
    """Nothing is wrong with the recording; the same call may succeed later."""

    remedy = "Run it again; what is stored is not sent again."


# What is wrong with a recording or its manifest


class RecordingRefused(UrsaError):
    """The recording as it stands must not be ingested. Nothing of it was registered."""

    remedy = "Mend the recording directory, then run it again."


class RecordingIdInvalid(RecordingRefused):
    """A name is not `rec_<YYYYMMDD>_<HHMMSS>_<hex>` with a real calendar time."""

    remedy = "Rename the directory to the id that the rig gave the recording."


class ManifestNotFound(RecordingRefused):
    """A manifest that was asked for by name or needed is not there."""

    remedy = "Run `ursa reconstruct` for this recording, or leave `manifest_path` out."


class ManifestInvalid(RecordingRefused):
    """A manifest breaks a rule of its format (DESIGN section 3); `place` names the field."""

    remedy = "Ask the rig's owner for the manifest as it was written, or take it out of the directory to have one made."


class ManifestConflict(ManifestInvalid):
    """Two manifests of one recording contradict one another."""

    remedy = "Find out which of the two is right; move the other out of the recording directory."


class ParticipantInvalid(RecordingRefused):
    """A participant's name is too long or holds control characters. The name is not repeated here."""

    remedy = "Correct participant.txt: one line, at most 200 characters."


class SourceNotFound(RecordingRefused):
    """A recording directory does not exist or holds nothing."""

    remedy = "Check the path and that the drive is mounted."


class SourceRefused(RecordingRefused):
    """The directory holds something that is never followed or read: a link, a FIFO, an unsafe name."""

    remedy = "Replace it by a regular file with a plain name, or remove it from the directory."


class RecordingIncomplete(RecordingRefused):
    """Files that the manifest lists are neither here nor in the bucket."""

    remedy = "Copy the missing files into the directory, or pass allow_partial to ingest what is there."


class ContentMismatch(RecordingRefused):
    """A file's size or digest differs from what its manifest attests."""

    remedy = "The copy is damaged: take the file from the rig or another copy again."


class MediaTruncated(RecordingRefused):
    """Media files are cut off, and the profile says that such a recording is refused."""

    remedy = (
        "Copy the named files again; if there is no more of them, `truncated: report` in the profile's settings takes "
        "the recording as it is."
    )


class RecordingConflict(RecordingRefused):
    """The rec_id, the recording_hash or a path already stands for other content."""

    remedy = "Compare both copies; the one already stored was left untouched."


# What passes with time


class RecordingNotSettled(Retryable):
    """The recording is still being written or copied."""

    remedy = "Wait until the copy has finished; sensors try again by themselves."


class SourceChanged(Retryable):
    """A file changed between looking at it and reading it."""

    remedy = "Something is still writing to it: let it finish, then run it again."


class SourceUnavailable(Retryable):
    """The drive or NAS cannot be read or is not mounted."""

    remedy = "Check the cable or the mount, then run it again."


class StoreUnavailable(Retryable):
    """The object store did not answer, or answered that it is overloaded."""

    remedy = "Check the network; run it again, what is stored is not sent again."


class UploadInterrupted(Retryable):
    """A stop was asked for. Nothing was registered."""

    remedy = "Run it again; what is stored is not sent again."


# Plans in files


class PlanInvalid(UrsaError):
    """A file is no plan that may be applied, or none may be written there; `place` names the file and the field."""

    remedy = "Make a new one with `ursa plan --out FILE`."


class PlanDrifted(UrsaError):
    """Source, bucket, catalog or profile are not as they were when the plan was made. Nothing was written."""

    remedy = (
        "Make a new plan with `ursa plan --out FILE`, look at it, and apply that; what is stored is not sent again."
    )


# Objects


class ObjectConflict(RecordingRefused):
    """Other bytes already stand under the key. Both are kept and nothing is registered."""

    remedy = "Compare the local file with the stored object and decide which one is the recording's."


class ObjectsMissing(RecordingRefused):
    """The bucket lacks objects that the manifest lists, or has them in another size."""

    remedy = "Ingest the recording from its directory (Path A) so that the missing bytes are uploaded."


class ObjectNotFound(UrsaError):
    """No object has this key."""

    remedy = "Check the key and the bucket."


class ObjectExists(UrsaError):
    """A create-only write found an object under the key."""

    remedy = "Compare what is stored with what was to be written; nothing was replaced."


class ETagMismatch(Retryable):
    """A conditional replacement found another version than the one that was read."""


class StoreDenied(UrsaError):
    """The object store refused the credential."""

    remedy = "Check that the credential of this role is valid and may reach this bucket."


class ClockWrong(StoreDenied):
    """This machine's clock differs from the object store's by more than signatures allow (15 minutes)."""

    remedy = "Set this machine's clock, for example by switching NTP on, then run it again."


class StoreRefused(UrsaError):
    """The object store does not accept a request that it should."""

    remedy = "Report this with the code it gave; nothing was stored."


# Downloads


class DestinationConflict(UrsaError, FileExistsError):
    """Something else stands where a downloaded file goes. It was left as it is."""

    remedy = "Move it away or choose another directory, then run it again; what is there and right is kept."


class DestinationFull(UrsaError):
    """The disk that a download goes to has not enough room. What has come is kept."""

    remedy = "Make room or choose another directory, then run it again; it goes on from what is there."


class DestinationUnusable(UrsaError):
    """A download cannot go on safely where it was told to go. What has come is kept."""

    remedy = "Download to a disk of this machine, and copy it from there."


class DestinationBusy(Retryable):
    """Another download writes the same file and does not get on."""

    remedy = "Let the other download end or stop it, then run it again."


class DataTooLarge(UrsaError):
    """More was asked for in memory than the limit allows. Nothing was read."""

    remedy = "Use download(...) to bring it to a directory, ask for fewer modalities, or pass a higher max_bytes=."


class ResultUnbound(UrsaError):
    """A query result does not know which interface it came from."""

    remedy = "Use data.download(results, dest) or data.get(results), or query again."


# Catalog


class CatalogError(UrsaError):
    """Base of the catalog's errors."""


class CatalogNotInitialized(CatalogError):
    """The assets bucket has no active-catalog pointer."""

    remedy = "Run `ursa catalog init` once for this profile."


class CatalogPointerInvalid(CatalogError):
    """`ursa/ACTIVE.json` is malformed. No prefix is guessed."""

    remedy = "Look at ursa/ACTIVE.json in the assets bucket and restore its last good content."


class CatalogVersionUnknown(CatalogError):
    """The catalog was written by a newer version; it is not touched."""

    remedy = "It was written by a newer ursa_pipelines: upgrade ursa_pipelines on this machine."


class CatalogUpgradeNeeded(CatalogError):
    """The catalog is of an older format, which is read and never written. Nothing was written."""

    remedy = "Run `ursa catalog upgrade`; every host that writes needs this version from then on."


class CatalogRowNotFound(CatalogError):
    """No row has this key."""

    remedy = "Check the key with `ursa query`."


class CatalogConflict(CatalogError):
    """The row exists with other values than the policy allows to change."""

    remedy = "Compare the named fields; use on_conflict='overwrite' only if the existing row is known to be wrong."


class CatalogRowExists(CatalogConflict):
    """The row exists with other values. `table` and `primary_key` say which."""

    remedy = "Compare the named fields; pass overwrite=True only if the existing row is known to be wrong."

    def __init__(self, problem: str, *, table: str, primary_key: tuple, **where: str | None) -> None:
        super().__init__(problem, **where)
        self.table = table
        self.primary_key = primary_key


# Room on a source


class ReleaseRefused(UrsaError):
    """A directory may not leave its source as things stand. It was left where it is."""

    remedy = "Nothing was moved. Settle what is named, then look again with `ursa release move`."


class TrashUnexpected(UrsaError):
    """What lies in a source's trash, or what the bucket has of it, is not as its certificate says. It was left."""

    remedy = "Nothing more was removed. Look at it; `ursa release restore REC_ID --commit` brings it back as it is."


class ReleaseNotEnabled(UrsaError):
    """The profile does not allow that anything leaves a source."""

    remedy = (
        "If this host shall free room on its sources, write `release: {enabled: true}` into its profile (--config)."
    )


# Profiles, roles, credentials, the embedded store


class ProfileInvalid(UrsaError):
    """A profile does not exist or its YAML breaks a rule; `place` names the field."""

    remedy = "Use profile='local', 'r2' or 'r2-test', or pass config_path= with a valid profile."


class WritesNotEnabled(UrsaError):
    """A write was asked for on an interface that only reads."""

    remedy = "Call enable_writes() first."


class RoleNotEnabled(WritesNotEnabled):
    """A write needs a role that was not enabled."""

    remedy = 'Call enable_writes(roles=("assets_rw", "raw_rw")).'


class BucketMismatch(UrsaError):
    """A bucket's identity object names another profile family or purpose; nothing is written."""

    remedy = "Check the bucket names in the profile; never point test code at a production bucket."


class CredentialsUnavailable(UrsaError):
    """1Password did not hand out a credential."""

    remedy = "Unlock 1Password (`op signin`) and try again."


class EmbeddedStoreUnavailable(UrsaError):
    """The embedded object store cannot run or does not answer on this machine."""

    remedy = "Point a profile at any S3 endpoint with config_path=; README, 'Your own object store', shows the YAML."
