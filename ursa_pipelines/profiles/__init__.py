"""Where things are and which credential opens them."""

from ursa_pipelines.profiles.credentials import Credential, CredentialSource
from ursa_pipelines.profiles.profile import LocalRole, Profile, Role, load_profile

__all__ = ["Credential", "CredentialSource", "LocalRole", "Profile", "Role", "load_profile"]
