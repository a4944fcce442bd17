"""Asset cards: what a model is called, what family it is of, and where its weights and its tokenizer are.

places  ->  a file  ->  the files it is based on  ->  a card  ->  files on this machine, when asked for
"""

from kinfold.assets.card import AssetCard, read_card, retrieve_asset_card
from kinfold.assets.checksum import sha256
from kinfold.assets.inheritance import files_by_name
from kinfold.assets.place import Place
from kinfold.assets.places import add_cards_folder, cache_folder, card_files, is_card_path, user_cards_folder
from kinfold.assets.uri import FileUri
from kinfold.assets.write import check_card_name, write_card

__all__ = [
    "AssetCard",
    "FileUri",
    "Place",
    "add_cards_folder",
    "cache_folder",
    "card_files",
    "check_card_name",
    "files_by_name",
    "is_card_path",
    "read_card",
    "retrieve_asset_card",
    "sha256",
    "user_cards_folder",
    "write_card",
]
